"""The attestations of a Mac, with the fault rules that make them wrong."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.device.facts.attestation import attest_device, attest_key, can_attest
from agent.device.mac import Device
from agent.faults.decisions import Hit
from agent.net.mac.faults.injection import falsified
from agent.net.mac.fleet.environment import Environment
from agent.pki.issuing.authority import PublicKey

Attested = tuple[tuple[bytes, ...], Hit | None]
"""A chain in DER, the leaf first, and the rule that hits it; an empty chain where the Mac attests nothing."""


def attest_properties(device: Device, environment: Environment, nonce: bytes | None) -> Attested:
    """The attestation for DeviceInformation."""
    hit = environment.decide("attestation", device.mac, "DeviceInformation")
    chain = attest_device(device, nonce, environment.wall_clock(), _date(environment), falsified(hit))
    environment.changed(device.mac.index)
    return chain, hit


def attest_acme_key(device: Device, environment: Environment, key: PublicKey, freshness: bytes) -> Attested:
    """The attestation of a key for ACME."""
    if not can_attest(device.mac):
        return (), None
    hit = environment.decide("attestation", device.mac, "acme")
    return attest_key(device, key, freshness, _date(environment), falsified(hit)), hit


def _date(environment: Environment) -> datetime:
    """The date of the servers, also where the clock of the Macs shows another one."""
    return datetime.fromtimestamp(environment.now().wall, UTC)
