"""LOMSetupRequest and LOMDeviceRequest."""

from __future__ import annotations

from agent.device.commands.reading import FORMAT_ERROR, mdm_error
from agent.device.mac import Device
from agent.device.steps import CommandSteps, RelayItems
from agent.lom.requests import (
    RelayItem,
    RelayOutcome,
    RequestListMalformed,
    parse_request_list,
    request_answer,
    setup_answer,
)
from agent.mdm.commands import Command
from agent.mdm.results import INVALID_REQUEST_TYPE, Result, acknowledged


def lom_setup_request(device: Device, _command: Command) -> Result:
    """The addresses and the protocol version of a LOM Device."""
    lom = device.lom
    if lom is None or lom.device_identity is None:
        return mdm_error(INVALID_REQUEST_TYPE, "LOMSetupRequest: this Mac is not set up as a LOM Device")
    mac = device.mac
    return acknowledged(setup_answer(device.dialect, mac.primary_ipv6, mac.secondary_ipv6, mac.lom_protocol_version))


def lom_device_request(device: Device, command: Command) -> Result | CommandSteps:
    """A LOM Controller relays the requests."""
    lom = device.lom
    if lom is None or lom.controller_identity is None:
        return mdm_error(INVALID_REQUEST_TYPE, "LOMDeviceRequest: this Mac is not set up as a LOM Controller")
    try:
        parsed = parse_request_list(command.body, device.warn)
    except RequestListMalformed:
        return FORMAT_ERROR
    return _relay(device, parsed)


def _relay(device: Device, parsed: list[RelayItem | RelayOutcome]) -> CommandSteps:
    device.relaying = True
    outcomes = iter((yield RelayItems(tuple(item for item in parsed if isinstance(item, RelayItem)))))
    device.relaying = False
    answered = [item if isinstance(item, RelayOutcome) else next(outcomes) for item in parsed]
    return acknowledged(request_answer(device.dialect, answered))
