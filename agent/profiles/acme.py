"""The ACME payload. Source: apple-schema profiles/com.apple.security.acme.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import PeerError
from agent.pki.acme.csr import extended_key_usage_of, permanent_identifier
from agent.pki.scep.csr import MAX_NAMES, alternative_names, subject_name
from agent.profiles.errors import malformed
from agent.profiles.profile import Payload
from agent.profiles.urls import checked_url

ACME = "com.apple.security.acme"
RSA, EC = "RSA", "ECSECPrimeRandom"  # values of KeyType
CURVES: Mapping[int, type[ec.EllipticCurve]] = {
    192: ec.SECP192R1,
    256: ec.SECP256R1,
    384: ec.SECP384R1,
    521: ec.SECP521R1,
}
HARDWARE_SIZES = (256, 384)  # of keys in the Secure Enclave
MAX_CLIENT_IDENTIFIER = 4096  # characters; ours


class ACMEPayload(msgspec.Struct, frozen=True):
    """The settings of an ACME payload."""

    payload_name: str
    directory_url: str
    client_identifier: str
    key_type: str
    """RSA or EC."""
    key_size: int
    """Bits."""
    hardware_bound: bool
    attest: bool
    subject: Any
    """Subject, in the payload's form."""
    subject_alt_name: Mapping[str, Any] | None
    """SubjectAltName, in the payload's form."""
    usage_flags: int
    extended_key_usage: tuple[str, ...]
    """Object identifiers."""


def acme_of(payload: Payload) -> ACMEPayload:
    """Read an ACME payload. Raises ProfileError."""
    key_type, key_size = payload.require("KeyType", str), payload.require("KeySize", int)
    hardware_bound = payload.require("HardwareBound", bool)
    attest = payload.get("Attest", bool) or False
    _check_key(payload, key_type, key_size, hardware_bound)
    if attest and not hardware_bound:
        raise malformed(f"Attest of the payload “{payload.name}” is true: expected HardwareBound to be true, too")
    identifier = payload.require("ClientIdentifier", str)
    if not 0 < len(identifier) <= MAX_CLIENT_IDENTIFIER:
        raise malformed(
            f"ClientIdentifier of the payload “{payload.name}”: expected 1 to {MAX_CLIENT_IDENTIFIER:,} characters, "
            f"found {len(identifier):,}"
        )
    subject, subject_alt_name = payload.require("Subject", list), payload.get("SubjectAltName", dict)
    extended = payload.strings("ExtendedKeyUsage")
    if len(extended) > MAX_NAMES:
        raise malformed(f"ExtendedKeyUsage of the payload “{payload.name}”: expected at most {MAX_NAMES}")
    try:
        subject_name(subject)
        alternative_names(subject_alt_name)
        extended_key_usage_of(extended)
        permanent_identifier(identifier)
    except PeerError as error:
        raise malformed(f"the payload “{payload.name}”: {error}") from error
    return ACMEPayload(
        payload_name=payload.name,
        directory_url=checked_url(payload, payload.require("DirectoryURL", str), "DirectoryURL"),
        client_identifier=identifier,
        key_type=key_type,
        key_size=key_size,
        hardware_bound=hardware_bound,
        attest=attest,
        subject=subject,
        subject_alt_name=subject_alt_name,
        usage_flags=payload.get("UsageFlags", int) or 0,
        extended_key_usage=extended,
    )


def _check_key(payload: Payload, key_type: str, key_size: int, hardware_bound: bool) -> None:
    """Source: the descriptions of KeyType, KeySize and HardwareBound."""
    if key_type not in (RSA, EC):
        raise malformed(f"KeyType of the payload “{payload.name}”: expected {RSA} or {EC}, found {key_type[:80]}")
    if key_type == RSA:
        good = 1024 <= key_size <= 4096 and key_size % 8 == 0
        expected = "a multiple of 8 from 1024 to 4096"
    else:
        sizes = HARDWARE_SIZES if hardware_bound else tuple(CURVES)
        good, expected = key_size in sizes, f"one of {sizes}"
    if not good:
        raise malformed(f"KeySize of the payload “{payload.name}”: expected {expected}, found {key_size}")
    if hardware_bound and key_type == RSA:
        raise malformed(f"HardwareBound of the payload “{payload.name}” is true: expected the KeyType {EC}, found RSA")
