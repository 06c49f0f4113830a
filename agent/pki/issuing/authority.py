"""A certificate authority for tests and for the embedded lab, with the extensions that each protocol needs."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.pki.identity import Identity, PrivateKey

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

LIFETIME = timedelta(days=825)  # Apple's bound for TLS server certificates of a private CA
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
        builder = _builder(subject, self.certificate.subject, public_key, not_before, not_after)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage.key_usage(), critical=True)
        extended = usage.extended_key_usage()
        if extended is not None:
            builder = builder.add_extension(extended, critical=False)
        if alternative is not None:
            builder = builder.add_extension(alternative, critical=False)
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        issuer_key = self.identity.key.public_key()
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        return builder.sign(self.identity.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    not_before: datetime | None,
    not_after: datetime | None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - _BACKDATE)
        .not_valid_after(not_after or now + LIFETIME)
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
