"""Device attestations of a test authority, in the form of Apple's: root, intermediate, leaves that describe a Mac.

The authority follows from a name: every process and every run has the same root, which the operator of a server adds to
it once. Anyone can make its keys: a server that trusts it accepts any device.

Source: apple-schema commands/information.device.yaml, DevicePropertiesAttestation. The value of each extension is the
bare text or bytes without ASN.1 around it, as step-ca reads those of Apple.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agent.pki.issuing.authority import PublicKey

_APPLE = "1.2.840.113635.100.8"
SERIAL_NUMBER = f"{_APPLE}.9.1"
UDID = f"{_APPLE}.9.2"
SOFTWARE_UPDATE_DEVICE_ID = f"{_APPLE}.9.4"
OS_VERSION = f"{_APPLE}.10.1"
SEPOS_VERSION = f"{_APPLE}.10.2"
LLB_VERSION = f"{_APPLE}.10.3"
FRESHNESS = f"{_APPLE}.11.1"
SIP_STATUS = f"{_APPLE}.13.1"
SECURE_BOOT = f"{_APPLE}.13.2"
KERNEL_EXTENSIONS = f"{_APPLE}.13.3"

ROOT_NAME = "lom-agent Test Enterprise Attestation Root CA"
LIFETIME = timedelta(days=365)  # of a leaf; ours
_NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2050, 1, 1, tzinfo=UTC)
_BACKDATE = timedelta(hours=1)  # the server's clock may differ
_STALE_DAYS = 30  # since a stale attestation has expired
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973  # of P-384
_SERIAL_CHARACTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Falsified(Enum):
    """What is wrong with an attestation, on purpose. The value is the word of a fault rule."""

    NONCE = "nonce"
    """The freshness code is not the requested one."""
    SERIAL = "serial"
    """The serial number is that of no Mac of the fleet."""
    STALE = "stale"
    """The attestation expired a month ago."""
    ROOT = "root"
    """The chain leads to another root."""


class AttestationAuthority:
    """A root and an intermediate whose keys and certificates follow from ``name``."""

    def __init__(self, name: str) -> None:
        root_key, key = (derived_key(f"{name} {what}".encode()) for what in ("root", "intermediate"))
        root = _name(name)
        self.root = _signed(_ca(root, root, root_key, 1), root_key)
        self.intermediate = _signed(_ca(_name(name.replace("Root CA", "Sub CA 1")), root, key, 0), root_key)
        self._key = key
        self._intermediate = self.intermediate.public_bytes(Encoding.DER)  # one object for all chains

    def attest(
        self,
        public_key: PublicKey,
        properties: Mapping[str, bytes],
        freshness: bytes | None,
        now: datetime,
        falsified: Falsified | None = None,
    ) -> tuple[bytes, bytes]:
        """The chain in DER, the leaf first: an attestation of ``public_key`` and of ``properties`` by their OID.

        ``freshness`` is the freshness code; None for an attestation without one. ``falsified`` is what is wrong.
        """
        if falsified is Falsified.ROOT:
            return _another_authority().attest(public_key, properties, freshness, now)
        values = dict(properties) if freshness is None else {**properties, FRESHNESS: freshness}
        since, until = now - _BACKDATE, now + LIFETIME
        match falsified:
            case Falsified.NONCE:
                values[FRESHNESS] = hashlib.sha256(b"another freshness code" + (freshness or b"")).digest()
            case Falsified.SERIAL:
                values[SERIAL_NUMBER] = _another_serial(values.get(SERIAL_NUMBER, b""))
            case Falsified.STALE:
                until = now - timedelta(days=_STALE_DAYS)
                since = until - LIFETIME
        return self._leaf(public_key, values, since, until), self._intermediate

    def _leaf(self, public_key: PublicKey, values: Mapping[str, bytes], since: datetime, until: datetime) -> bytes:
        described = hashlib.sha256(values.get(SERIAL_NUMBER, b"") + values.get(UDID, b"")).hexdigest()
        builder = _builder(_name(described), self.intermediate.subject, public_key, x509.random_serial_number())
        builder = builder.not_valid_before(since).not_valid_after(until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(certificates=False), critical=True)
        for oid, value in values.items():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=False)
        return _signed(builder, self._key).public_bytes(Encoding.DER)


@cache
def attestation_authority() -> AttestationAuthority:
    """The authority of all simulated Macs."""
    return AttestationAuthority(ROOT_NAME)


@cache
def _another_authority() -> AttestationAuthority:
    return AttestationAuthority(f"Other {ROOT_NAME}")


def _another_serial(serial: bytes) -> bytes:
    """A serial number of twelve characters, which no Mac with Apple silicon has."""
    digest = hashlib.sha256(serial).digest()
    return "".join(_SERIAL_CHARACTERS[octet % len(_SERIAL_CHARACTERS)] for octet in digest[:12]).encode()


def derived_key(purpose: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-384 key that follows from ``purpose``, and is no secret.

    512 hashed bits modulo the order, so that the bias is below 2 ** -127. Source: FIPS 186-5, A.2.1.
    """
    digest = hashlib.blake2b(purpose, person=b"lom attestation").digest()
    return ec.derive_private_key(int.from_bytes(digest, "big") % (_ORDER - 1) + 1, ec.SECP384R1())


def _ca(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, path_length: int
) -> x509.CertificateBuilder:
    number = int.from_bytes(hashlib.sha256(subject.public_bytes()).digest()[:15], "big") | 1
    builder = _builder(subject, issuer, key.public_key(), number)
    builder = builder.not_valid_before(_NOT_BEFORE).not_valid_after(_NOT_AFTER)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(_key_usage(certificates=True), critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, serial_number: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial_number)
    )


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not certificates, False, False, False, False, certificates, certificates, False, False)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lom-agent"),
        ]
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Sign without random numbers (RFC 6979), so that root and intermediate have the same bytes each time."""
    return builder.sign(key, hashes.SHA384(), ecdsa_deterministic=True)
