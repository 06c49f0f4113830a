"""The commands that a Mac answers: for each its access right, what it does, and its answer.

A command becomes a result in ``carry_out``. Most do at once; one that needs the network is a generator that yields
what it needs (``RelayItems``) and is sent what came of it, and returns the result at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from agent.device.information import device_information
from agent.device.mac import Device
from agent.lom.requests import (
    Outcome,
    RelayItem,
    RequestListMalformed,
    parse_request_list,
    request_answer,
    setup_answer,
)
from agent.mdm.access_rights import AccessRights
from agent.mdm.commands import Command
from agent.mdm.results import (
    INVALID_REQUEST_TYPE,
    NOT_AUTHORIZED,
    ChainedError,
    Domain,
    Result,
    Status,
    acknowledged,
    failed,
)
from agent.plists import PlistError
from agent.profiles.errors import ProfileError, malformed


@dataclass(frozen=True, slots=True)
class RelayItems:
    """Carry these items to their Devices; what came of each is sent back as a list of Outcome, in the same order."""

    items: tuple[RelayItem, ...]


Steps = Generator[RelayItems, list[Outcome], Result]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table: the right that the enrolment must give, and what the command does."""

    right: AccessRights | None
    carry_out: Callable[[Device, Command], Result | Steps]


def carry_out(device: Device, command: Command) -> Result | Steps:
    """The result of a command, or the steps that lead to it."""
    rule = COMMANDS.get(command.request_type)
    if rule is None:
        return _mdm_error(INVALID_REQUEST_TYPE, f"the request type {command.request_type[:200]} is not supported")
    if rule.right is not None and not device.allows(rule.right):
        return _mdm_error(
            NOT_AUTHORIZED,
            f"{command.request_type} needs the access right {int(rule.right)}, which the enrolment does not give",
        )
    return rule.carry_out(device, command)


def _lom_setup_request(device: Device, _command: Command) -> Result:
    lom = device.lom
    if lom is None or lom.device_identity is None:
        return _mdm_error(INVALID_REQUEST_TYPE, "LOMSetupRequest: this Mac is not set up as a LOM Device")
    mac = device.mac
    return acknowledged(setup_answer(device.dialect, mac.primary_ipv6, mac.secondary_ipv6, mac.lom_protocol_version))


def _lom_device_request(device: Device, command: Command) -> Result | Steps:
    lom = device.lom
    if lom is None or lom.controller_identity is None:
        return _mdm_error(INVALID_REQUEST_TYPE, "LOMDeviceRequest: this Mac is not set up as a LOM Controller")
    try:
        parsed = parse_request_list(command.body)
    except RequestListMalformed:
        return Result(Status.COMMAND_FORMAT_ERROR)
    return _relay(device, parsed)


def _relay(device: Device, parsed: list[RelayItem | Outcome]) -> Steps:
    device.relaying = True
    outcomes = iter((yield RelayItems(tuple(item for item in parsed if isinstance(item, RelayItem)))))
    device.relaying = False
    answered = [item if isinstance(item, Outcome) else next(outcomes) for item in parsed]
    return acknowledged(request_answer(device.dialect, answered))


def _install_profile(device: Device, command: Command) -> Result:
    payload = command.body.get("Payload")
    if not isinstance(payload, bytes):
        return Result(Status.COMMAND_FORMAT_ERROR)
    try:
        device.profiles.install(payload)
    except PlistError as error:
        return failed(*malformed(str(error)).chain)
    except ProfileError as error:
        return failed(*error.chain)
    return acknowledged()


def _remove_profile(device: Device, command: Command) -> Result:
    identifier = command.body.get("Identifier")
    if not isinstance(identifier, str):
        return Result(Status.COMMAND_FORMAT_ERROR)
    try:
        device.profiles.remove(identifier)
    except ProfileError as error:
        return failed(*error.chain)
    return acknowledged()


def _profile_list(device: Device, _command: Command) -> Result:
    return acknowledged({"ProfileList": device.profiles.listed()})


def _device_information(device: Device, command: Command) -> Result:
    queries = command.body.get("Queries")
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        return Result(Status.COMMAND_FORMAT_ERROR)
    return acknowledged({"QueryResponses": device_information(device, queries)})


def _mdm_error(code: int, description: str) -> Result:
    return failed(ChainedError(Domain.MDM, code, description))


COMMANDS: Mapping[str, Rule] = {
    "DeviceInformation": Rule(None, _device_information),  # each key has its own right
    "InstallProfile": Rule(AccessRights.INSTALL_PROFILES, _install_profile),
    "LOMDeviceRequest": Rule(AccessRights.LOCK_DEVICE, _lom_device_request),
    "LOMSetupRequest": Rule(AccessRights.LOCK_DEVICE, _lom_setup_request),
    "ProfileList": Rule(AccessRights.INSPECT_PROFILES, _profile_list),
    "RemoveProfile": Rule(AccessRights.INSTALL_PROFILES, _remove_profile),
}
