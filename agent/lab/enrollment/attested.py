"""Verifies the attestation of a Mac for the lab, against the test authority of the simulated Macs. No I/O."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from agent.errors import PeerError
from agent.pki.acme.attestation import freshness_code
from agent.pki.certificates import UNREADABLE, for_openssl, read_certificate
from agent.pki.issuing.attestation import FRESHNESS, SERIAL_NUMBER, attestation_authority
from agent.pki.verify import store_of


class NotAttested(PeerError):
    """An attestation that proves nothing."""

    kind = "attestation"


class Attested(msgspec.Struct, frozen=True):
    """What an attestation says."""

    public_key: bytes
    """SubjectPublicKeyInfo in DER."""
    serial_number: str


def attested_by(chain: Sequence[bytes], token: str) -> Attested:
    """What a chain in DER, the leaf first, attests for the challenge with this token. Raises PeerError."""
    leaf, *others = (read_certificate(each) for each in chain)
    _check_chain(leaf, others)
    freshness = _value(leaf, FRESHNESS, "freshness code")
    if not hmac.compare_digest(freshness, freshness_code(token)):
        raise NotAttested("expected the SHA-256 of the challenge's token as the freshness code, found another one")
    serial_number = _value(leaf, SERIAL_NUMBER, "serial number")
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Attested(key, serial_number.decode("ascii", "replace"))


def _check_chain(leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> None:
    store = store_of((attestation_authority().root,))
    try:
        own, links = for_openssl(leaf), [for_openssl(each) for each in others]
        crypto.X509StoreContext(store, own, links).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise NotAttested(f"the attestation does not lead to the attestation root: {error}") from error


def _value(leaf: x509.Certificate, oid: str, what: str) -> bytes:
    try:
        found = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        raise NotAttested(f"expected the {what} in the attestation, found none") from None
    except UNREADABLE as error:
        raise NotAttested(f"the attestation cannot be read: {error}") from error
    return found.public_bytes()
