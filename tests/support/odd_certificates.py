"""Certificates that no library makes, signed by a CA, for the tests of every reader of certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asn1crypto import pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.pki import der
from agent.pki.identity import Identity, PrivateKey

_ORDER = ("version", "serial", "algorithm", "issuer", "validity", "subject", "key", "extensions")
_EXTENSIONS = 0xA3
_CONTEXT_VERSION = b"\xa0\x03\x02\x01"
_UTC, _GENERALIZED = 0x17, 0x18


@dataclass(frozen=True)
class Octets:
    """A certificate as octets only, with as much of its interface as writing it to a file takes."""

    octets: bytes

    def public_bytes(self, encoding: Encoding) -> bytes:
        """DER or PEM."""
        return self.octets if encoding is Encoding.DER else pem_of(self.octets)


@dataclass(frozen=True)
class OddIdentity:
    """What an ``Identity`` is to a raw peer: a certificate in octets, and its key."""

    certificate: Octets
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()


def pem_of(octets: bytes) -> bytes:
    """A certificate in PEM."""
    return bytes(pem.armor("CERTIFICATE", octets))


def edited(certificate: x509.Certificate, issuer: PrivateKey, changes: Mapping[str, bytes]) -> bytes:
    """The DER of ``certificate`` with parts of it replaced by any octets, signed anew.

    A change of the part ``extension`` is one more extension, in place of the one with the same OID.
    """
    tbs, algorithm, _signature = der.read(certificate.public_bytes(Encoding.DER)).children()
    parts = {name: element.encoded for name, element in zip(_ORDER, tbs.children(), strict=True)}
    for part, octets in changes.items():
        parts[part] = _with_extension(parts["extensions"], octets) if part == "extension" else octets
    parts["extensions"] = parts.pop("extension", parts["extensions"])
    content = der.sequence(*parts.values())
    assert isinstance(issuer, ec.EllipticCurvePrivateKey)
    signature = issuer.sign(content, ec.ECDSA(hashes.SHA256()))
    return der.sequence(content, algorithm.encoded, der.encode(der.BIT_STRING, b"\0" + signature))


def signed_by_sha1(certificate: x509.Certificate, issuer: PrivateKey) -> bytes:
    """The DER of ``certificate`` signed anew by ECDSA with SHA-1, as cryptography does no more."""
    algorithm = der.sequence(der.oid("1.2.840.10045.4.1"))
    tbs, _algorithm, _signature = der.read(certificate.public_bytes(Encoding.DER)).children()
    parts = {name: element.encoded for name, element in zip(_ORDER, tbs.children(), strict=True)}
    content = der.sequence(*{**parts, "algorithm": algorithm}.values())
    assert isinstance(issuer, ec.EllipticCurvePrivateKey)
    signature = issuer.sign(content, ec.ECDSA(hashes.SHA1()))
    return der.sequence(content, algorithm, der.encode(der.BIT_STRING, b"\0" + signature))


def odd_identity(good: Identity, issuer: PrivateKey, changes: Mapping[str, bytes]) -> OddIdentity:
    """``good`` with its certificate edited and signed anew."""
    return OddIdentity(Octets(edited(good.certificate, issuer, changes)), good.key)


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """One extension with any octets as its value."""
    return der.sequence(der.oid(oid), b"\x01\x01\xff" if critical else b"", der.encode(der.OCTET_STRING, value))


def _with_extension(extensions: bytes, new: bytes) -> bytes:
    (wrapped,) = der.read(extensions).children()
    oid = der.read(new).children()[0].encoded
    kept = [one.encoded for one in wrapped.children() if one.children()[0].encoded != oid]
    return der.encode(_EXTENSIONS, der.sequence(*kept, new))


def _validity(text: bytes, tag: int = _UTC) -> bytes:
    return der.sequence(der.encode(tag, text), der.encode(_UTC, b"490101000000Z"))


_EC_KEY = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7"))
_TWO_BASIC_CONSTRAINTS = der.encode(_EXTENSIONS, der.sequence(*[extension("2.5.29.19", b"\x30\x00")] * 2))
VERSION_4 = {"version": _CONTEXT_VERSION + b"\x03"}

# Each is refused by cryptography, some when the certificate is loaded, most when a part is asked for.
UNREADABLE: dict[str, Mapping[str, bytes]] = {
    "version 4": VERSION_4,
    "version 100": {"version": _CONTEXT_VERSION + b"\x63"},
    "negative version": {"version": _CONTEXT_VERSION + b"\xff"},
    "an extension twice": {"extensions": _TWO_BASIC_CONSTRAINTS},
    "basicConstraints of another type": {"extension": extension("2.5.29.19", b"\x02\x01\x01")},
    "keyUsage of another type": {"extension": extension("2.5.29.15", b"\x04\x02\x07\x80")},
    "extendedKeyUsage of empty OIDs": {"extension": extension("2.5.29.37", b"\x30\x02\x06\x00")},
    "dNSName not ASCII": {"extension": extension("2.5.29.17", b"\x30\x04\x82\x02\xff\xfe")},
    "x400Address": {"extension": extension("2.5.29.17", b"\x30\x04\xa3\x02\x30\x00")},
    "unknown key algorithm": {"key": der.sequence(der.sequence(der.oid("1.2.3.4")), b"\x03\x02\x00\x00")},
    "key off its curve": {"key": der.sequence(_EC_KEY, der.encode(der.BIT_STRING, b"\0\4" + b"\1" * 64))},
    "key cut off": {"key": der.sequence(_EC_KEY, der.encode(der.BIT_STRING, b"\0\4\1"))},
    "issuer of an empty set": {"issuer": b"\x30\x02\x31\x00"},
    "subject of an empty set": {"subject": b"\x30\x02\x31\x00"},
    "subject not UTF-8": {"subject": b"\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02\xff\xfe"},
    "subject of half a character": {"subject": b"\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x1e\x01\x41"},
    "month 13": {"validity": _validity(b"261301000000Z")},
    "30 February": {"validity": _validity(b"260230000000Z")},
    "a date without seconds": {"validity": _validity(b"2601010000Z")},
    "year 0": {"validity": _validity(b"00000101000000Z", _GENERALIZED)},
    "a date with an offset": {"validity": _validity(b"260101000000+0100")},
    "a date not ASCII": {"validity": _validity(b"\xff60101000000Z")},
    "an empty date": {"validity": _validity(b"")},
    "one date": {"validity": der.sequence(der.encode(_UTC, b"260101000000Z"))},
    "dates of integers": {"validity": der.sequence(b"\x02\x01\x00", b"\x02\x01\x00")},
}
