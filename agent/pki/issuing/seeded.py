"""LOM identities from a seed: processes with the same seed have identities that trust each other.

Keys, serial numbers and certificates follow from (seed, purpose, index), byte for byte, so that no file has to be
copied. They are for tests only: anyone with the seed has every key. There are two CAs, as in a fleet: Controllers
trust the CA of the Devices, Devices that of the Controllers.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE

NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2050, 1, 1, tzinfo=UTC)

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2, 2.4.2)
_SERIAL_BYTES = 16  # RFC 5280, 4.1.2.2: at most 20, and positive
_DEVICES, _CONTROLLERS = "Device", "Controller"


class SeededIdentities:
    """The CAs of a seed, which is any text, and the identities that they issue."""

    def __init__(self, seed: str) -> None:
        # surrogatepass: a seed from a command line that is not UTF-8 holds lone surrogates
        self._key = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), person=b"lom seeded pki").digest()
        self._authorities = {role: self._authority(role) for role in (_DEVICES, _CONTROLLERS)}  # certificate, key

    @property
    def device_ca(self) -> x509.Certificate:
        """The CA of the Devices, which Controllers trust."""
        return self._authorities[_DEVICES][0]

    @property
    def controller_ca(self) -> x509.Certificate:
        """The CA of the Controllers, which Devices trust."""
        return self._authorities[_CONTROLLERS][0]

    def device(self, index: int, dns_name: str) -> Identity:
        """The identity of Mac ``index`` with this name as a LOM Device."""
        return self._issue(_DEVICES, index, dns_name)

    def controller(self, index: int, dns_name: str) -> Identity:
        """The identity of Mac ``index`` with this name as a LOM Controller."""
        return self._issue(_CONTROLLERS, index, dns_name)

    def _authority(self, role: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = self._private_key(f"{role} CA key", 0)
        # The name contains a hash of the seed, so that an error shows which seed a peer has.
        name = _name(f"LOM {role} CA of seed {self._key[:4].hex()}")
        builder = self._builder(name, name, key, f"{role} CA serial")
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_CA_KEY_USAGE, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return _signed(builder, key), key

    def _issue(self, role: str, index: int, dns_name: str) -> Identity:
        authority, authority_key = self._authorities[role]
        key = self._private_key(f"{role} key", index)
        builder = self._builder(_name(dns_name), authority.subject, key, f"{role} serial", index)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(LOM_USAGE.key_usage(), critical=True)
        extended = LOM_USAGE.extended_key_usage()
        if extended is not None:
            builder = builder.add_extension(extended, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        return Identity(_signed(builder, authority_key), key)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, serial: str, index: int = 0
    ) -> x509.CertificateBuilder:
        # The name is hashed too: serial numbers of one issuer must be unique (RFC 5280, 4.1.2.2).
        number = int.from_bytes(self._digest(serial, index, subject.public_bytes())[:_SERIAL_BYTES], "big")
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(number | 1)
            .not_valid_before(NOT_BEFORE)
            .not_valid_after(NOT_AFTER)
        )

    def _private_key(self, purpose: str, index: int) -> ec.EllipticCurvePrivateKey:
        """A P-256 key: 512 hashed bits modulo the order, so that the bias is below 2 ** -255.

        Source: FIPS 186-5, A.2.1 (key pair generation using extra random bits).
        """
        number = int.from_bytes(self._digest(purpose, index), "big") % (_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP256R1())

    def _digest(self, purpose: str, index: int, more: bytes = b"") -> bytes:
        """64 bytes for a purpose and an index."""
        text = f"{purpose} {index}".encode("ascii") + b"\0" + more
        return hashlib.blake2b(text, key=self._key).digest()


_CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Sign without random numbers (RFC 6979), so that the bytes are the same each time."""
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
