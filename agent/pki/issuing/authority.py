"""A certificate authority for tests and for the embedded lab, with the extensions that each protocol needs."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.pki import der
from agent.pki.certificates import own_certificate
from agent.pki.identity import Identity, PrivateKey

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

LIFETIME = timedelta(days=825)  # Apple's bound for TLS server certificates of a private CA
_SERIAL_BYTES = 20
_VERSION_3 = bytes.fromhex("a003020102")
_EXTENSIONS = 0xA3
_UTC_TIME, _GENERALIZED_TIME, _GENERALIZED_FROM = 0x17, 0x18, 2050
_RSA_SHA256 = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
_ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_BACKDATE = timedelta(hours=1)  # clocks of test machines differ


class Usage(msgspec.Struct, frozen=True):
    """Key Usage and Extended Key Usage of a certificate."""

    digital_signature: bool = True
    key_encipherment: bool = False
    data_encipherment: bool = False
    server_auth: bool = False
    client_auth: bool = False

    def key_usage(self) -> x509.KeyUsage:
        """The Key Usage extension."""
        return _key_usage(self.digital_signature, self.key_encipherment, self.data_encipherment)

    def extended_key_usage(self) -> x509.ExtendedKeyUsage | None:
        """The Extended Key Usage extension, or None without one."""
        oids = [ExtendedKeyUsageOID.SERVER_AUTH] if self.server_auth else []
        oids += [ExtendedKeyUsageOID.CLIENT_AUTH] if self.client_auth else []
        return x509.ExtendedKeyUsage(oids) if oids else None


# Source: apple-schema profiles/com.apple.lom.yaml, DeviceCertificateUUID.
LOM_USAGE = Usage(key_encipherment=True, data_encipherment=True, server_auth=True, client_auth=True)
CLIENT_USAGE = Usage(key_encipherment=True, client_auth=True)
SERVER_USAGE = Usage(key_encipherment=True, server_auth=True)


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """A root CA with its key in memory."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._name = identity.certificate.subject.public_bytes()
        self._algorithm = _RSA_SHA256 if isinstance(identity.key, rsa.RSAPrivateKey) else _ECDSA_SHA256
        self._key_identifier = _extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(identity.key.public_key()))
        self._of_usage: dict[Usage, bytes] = {}

    @classmethod
    def create(cls, common_name: str, *, key: PrivateKey | None = None, decrypts: bool = False) -> Authority:
        """A new root CA, valid from an hour ago; with ``decrypts`` it can be a SCEP recipient."""
        key = key or make_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(name, name, key.public_key(), None, None)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        builder = builder.add_extension(_key_usage(True, decrypts, False, certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(Identity(builder.sign(key, hashes.SHA256()), key))

    @property
    def certificate(self) -> x509.Certificate:
        """The root's own certificate."""
        return self.identity.certificate

    def issue(
        self,
        common_name: str | None,
        usage: Usage,
        *,
        names: Sequence[str] = (),
        key: PrivateKey | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Identity:
        """A new identity with CN ``common_name`` and ``names`` (DNS names or IP addresses) as its SubjectAltName."""
        key = key or make_key()
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name is not None else []
        alternative = x509.SubjectAlternativeName([_general_name(name) for name in names]) if names else None
        certificate = self.certify(
            key.public_key(), x509.Name(attributes), usage, alternative, not_before=not_before, not_after=not_after
        )
        return Identity(certificate, key)

    def certify(
        self,
        public_key: PublicKey,
        subject: x509.Name,
        usage: Usage,
        alternative: x509.SubjectAlternativeName | None = None,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        more: Sequence[x509.ExtensionType] = (),
    ) -> x509.Certificate:
        """A certificate for a public key. ``more`` are further extensions."""
        before, after = _dates(not_before, not_after)
        tbs = der.sequence(
            _VERSION_3,
            der.encode(der.INTEGER, _serial_octets()),
            self._algorithm,
            self._name,
            der.sequence(_time(before), _time(after)),
            subject.public_bytes(),
            public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            der.encode(_EXTENSIONS, der.sequence(*self._extensions(usage, alternative, more))),
        )
        signed = der.sequence(tbs, self._algorithm, der.encode(der.BIT_STRING, b"\x00" + self._sign(tbs)))
        return own_certificate(signed)

    def _extensions(
        self, usage: Usage, alternative: x509.SubjectAlternativeName | None, more: Sequence[x509.ExtensionType]
    ) -> list[bytes]:
        first = self._of_usage.get(usage)
        if first is None:
            extended = usage.extended_key_usage()
            first = self._of_usage[usage] = b"".join(
                (
                    _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
                    _extension(usage.key_usage(), critical=True),
                    b"" if extended is None else _extension(extended),
                )
            )
        others = (*(() if alternative is None else (alternative,)), *more)
        return [first, *(_extension(each) for each in others), self._key_identifier]

    def _sign(self, tbs: bytes) -> bytes:
        key = self.identity.key
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
        return key.sign(tbs, ec.ECDSA(hashes.SHA256()))


def _extension(extension: x509.ExtensionType, *, critical: bool = False) -> bytes:
    return der.sequence(
        der.oid(extension.oid.dotted_string),
        b"\x01\x01\xff" if critical else b"",
        der.encode(der.OCTET_STRING, extension.public_bytes()),
    )


def _serial_octets() -> bytes:
    """A random serial number of 20 octets, which is positive (RFC 5280, 4.1.2.2)."""
    octets = os.urandom(_SERIAL_BYTES)
    return bytes(((octets[0] & 0x3F) | 0x40,)) + octets[1:]


def _time(moment: datetime) -> bytes:
    """RFC 5280, 4.1.2.5."""
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    if utc.year < _GENERALIZED_FROM:
        return der.encode(_UTC_TIME, f"{utc:%y%m%d%H%M%SZ}".encode())
    return der.encode(_GENERALIZED_TIME, f"{utc:%Y%m%d%H%M%SZ}".encode())


def _dates(not_before: datetime | None, not_after: datetime | None) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return not_before or now - _BACKDATE, not_after or now + LIFETIME


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    not_before: datetime | None,
    not_after: datetime | None,
) -> x509.CertificateBuilder:
    before, after = _dates(not_before, not_after)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(before)
        .not_valid_after(after)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(sign: bool, encipher_key: bool, encipher_data: bool, *, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=encipher_key,
        data_encipherment=encipher_data,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
