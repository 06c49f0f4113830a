"""What a Mac attests of itself, and the cache of its attestation for DeviceInformation.

Source: apple-schema commands/information.device.yaml (DevicePropertiesAttestation, DeviceAttestationNonce) and
profiles/com.apple.security.acme.yaml (hardware support).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeGuard

from agent.device.facts.information import QUERIES
from agent.device.facts.supported import query_exists
from agent.device.mac import Attestation, Device
from agent.fleet.models import HARDWARE_BOUND_SINCE
from agent.fleet.population import Mac
from agent.pki.issuing import attestation as oids
from agent.pki.issuing.attestation import Falsified, attestation_authority, derived_key
from agent.pki.issuing.authority import PublicKey
from agent.profiles.acme import ACMEPayload
from agent.profiles.errors import malformed

QUERY = "DevicePropertiesAttestation"
NONCE = "DeviceAttestationNonce"
MAX_NONCE_BYTES = 32
FRESH_SECONDS = 7 * 24 * 3600.0  # for which the system generates no other attestation
_FIRST = (HARDWARE_BOUND_SINCE, 0)  # Attest, HardwareBound and DevicePropertiesAttestation
_MORE_PROPERTIES = (14, 2)

# The text of each property by its OID, and the release from which on it is attested.
_PROPERTIES: Mapping[str, tuple[tuple[int, int], Callable[[Device], str]]] = {
    oids.SERIAL_NUMBER: (_FIRST, lambda device: device.mac.serial_number),
    oids.UDID: (_FIRST, lambda device: device.mac.provisioning_udid),
    oids.SEPOS_VERSION: (_FIRST, lambda device: device.mac.os_version),
    oids.SOFTWARE_UPDATE_DEVICE_ID: (
        _MORE_PROPERTIES,
        lambda device: str(QUERIES["SoftwareUpdateDeviceID"](device)),
    ),
    oids.OS_VERSION: (_MORE_PROPERTIES, lambda device: device.mac.os_version),
    oids.LLB_VERSION: (_MORE_PROPERTIES, lambda device: device.mac.os_version),  # ours: its form is not documented
    oids.SIP_STATUS: (_MORE_PROPERTIES, lambda _: "0"),  # enabled
    oids.SECURE_BOOT: (_MORE_PROPERTIES, lambda _: "Full Security"),
    oids.KERNEL_EXTENSIONS: (_MORE_PROPERTIES, lambda _: "0"),  # not allowed
}


def can_attest(mac: Mac) -> bool:
    """Whether hardware and system can make attestations: Apple silicon, from macOS 14 on."""
    return mac.apple_silicon and query_exists(QUERY, mac.os_version)


def usable_by(mac: Mac, payload: ACMEPayload) -> ACMEPayload:
    """The payload, if the Mac can have its key. Raises ProfileError.

    A hardware-bound key needs macOS 14, with Apple silicon or T2, which every Intel model of the fleet has.
    """
    if payload.hardware_bound and _release(mac) < _FIRST:
        raise malformed(
            f"HardwareBound of the payload “{payload.payload_name}” is true: expected false before macOS "
            f"{_FIRST[0]}, found a Mac with {mac.os_version}"
        )
    return payload


def attested_properties(device: Device) -> dict[str, bytes]:
    """The values in an attestation by OID, without the freshness code."""
    release = _release(device.mac)
    return {oid: text(device).encode() for oid, (first, text) in _PROPERTIES.items() if release >= first}


def attest_key(
    device: Device, public_key: PublicKey, freshness: bytes, date: datetime, falsified: Falsified | None = None
) -> tuple[bytes, ...]:
    """The chain in DER that attests a key and the Mac's properties, for ACME. ``date`` is that of the servers."""
    return attestation_authority().attest(public_key, attested_properties(device), freshness, date, falsified)


def attest_device(
    device: Device, nonce: bytes | None, now: float, date: datetime, falsified: Falsified | None = None
) -> tuple[bytes, ...]:
    """The chain in DER for DeviceInformation: the cached attestation, or a new one with this nonce, which is cached.

    The cached one is the answer to a request without a nonce or with the nonce that it has, and to every request within
    seven days of its generation by the Mac's clock, which shows ``now`` (seconds since the epoch). ``date`` is that of
    the servers, from which the certificate is valid. A falsified attestation is not cached.
    """
    cached = device.attestation
    if cached is not None and falsified is None and _answers(cached, nonce, now):
        return cached.chain
    key = derived_key(b"device key " + device.mac.source.digest(b"attestation", device.mac.index))
    properties = attested_properties(device)
    chain = attestation_authority().attest(key.public_key(), properties, nonce or None, date, falsified)
    if falsified is None:
        device.attestation = Attestation(chain, nonce or b"", now)
    return chain


def _answers(cached: Attestation, nonce: bytes | None, now: float) -> bool:
    return nonce is None or nonce == cached.nonce or 0 <= now - cached.at < FRESH_SECONDS


def is_valid(nonce: object) -> TypeGuard[bytes | None]:
    """Whether this can be a DeviceAttestationNonce, or its absence."""
    return nonce is None or (isinstance(nonce, bytes) and len(nonce) <= MAX_NONCE_BYTES)


def _release(mac: Mac) -> tuple[int, int]:
    major, minor, *_ = (*map(int, mac.os_version.split(".")), 0)
    return major, minor
