"""The commands that ask for the state of the Mac, Settings, and declarative management."""

from __future__ import annotations

from agent.device.commands.reading import FORMAT_ERROR, flag, is_list_of
from agent.device.commands.settings import apply_settings
from agent.device.facts import attestation, information
from agent.device.facts.attestation import can_attest
from agent.device.mac import Device
from agent.device.steps import AttestProperties, CommandSteps, SynchroniseDeclarations
from agent.errors import PeerError
from agent.mdm.commands import Command
from agent.mdm.results import Result, acknowledged


def device_information(device: Device, command: Command) -> Result | CommandSteps:
    """The values of the keys that the server asks for."""
    queries = command.body.get("Queries")
    if not is_list_of(queries, str):
        return FORMAT_ERROR
    if can_attest(device.mac) and (attestation.QUERY in queries or attestation.NONCE in command.body):
        nonce = command.body.get(attestation.NONCE)
        if not attestation.is_valid(nonce) or attestation.QUERY not in queries:
            return FORMAT_ERROR
        return _attested_information(device, queries, nonce, command.channel)
    return acknowledged({"QueryResponses": information.device_information(device, queries, command.channel)})


def _attested_information(device: Device, queries: list[str], nonce: bytes | None, channel: str) -> CommandSteps:
    chain: tuple[bytes, ...] | PeerError = yield AttestProperties(nonce)
    attested = {} if isinstance(chain, PeerError) else {attestation.QUERY: list(chain)}
    return acknowledged({"QueryResponses": information.device_information(device, queries, channel) | attested})


def security_info(device: Device, command: Command) -> Result:
    """The state of security settings, as far as the channel shows it."""
    return acknowledged({"SecurityInfo": information.security_information(device, command.channel)})


def settings(device: Device, command: Command) -> Result:
    """Apply settings."""
    items = command.body.get("Settings")
    if not is_list_of(items, dict):
        return FORMAT_ERROR
    return acknowledged({"Settings": apply_settings(device, items, command.channel)})


def restrictions(device: Device, command: Command) -> Result:
    """None. Source: Apple's schema 26.0, commands/device.restrictions.list.yaml: macOS answers a blank dictionary."""
    answer: dict[str, object] = {"GlobalRestrictions": {}}
    if flag(device, command, "ProfileRestrictions"):
        answer["ProfileRestrictions"] = {}
    return acknowledged(answer)


def declarative_management(device: Device, command: Command) -> Result:
    """Update the declarations, once the server has accepted the answer."""
    tokens = command.body.get("Data", b"")
    if not isinstance(tokens, bytes):
        return FORMAT_ERROR
    device.after_delivery(SynchroniseDeclarations(tokens))
    return acknowledged()
