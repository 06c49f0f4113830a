"""The Settings command: applies each item and returns its result. Source: apple-schema commands/settings.yaml.

The schema's text calls ``Settings`` in the answer a dictionary; devices send an array with one item per setting, and
servers read an array, so this module returns an array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from agent.device.facts.supported import DEVICE_CHANNEL, management_of, setting_problem
from agent.device.mac import Device
from agent.device.system import MAX_PROPERTY_LIST
from agent.mdm.access_rights import AccessRights
from agent.mdm.results import (
    APP_NOT_MANAGED,
    INVALID_REQUEST_TYPE,
    MALFORMED_REQUEST,
    NOT_AUTHORIZED,
    ChainedError,
    Domain,
)
from agent.mdm.values import WrongType, converted
from agent.plists import dump_binary, type_name

_MAX_NAME = 255
_MAX_QUOTED = 80  # characters of a key that an error quotes


class _Refused(Exception):
    """The item cannot be applied; code and description are for the ErrorChain."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code = code


def apply_settings(
    device: Device, items: Sequence[Mapping[str, Any]], channel: str = DEVICE_CHANNEL
) -> list[dict[str, Any]]:
    """Apply the items in order; returns the result of each: Acknowledged, or Error with its ErrorChain."""
    return [_apply(device, item, channel) for item in items]


def _apply(device: Device, item: Mapping[str, Any], channel: str) -> dict[str, Any]:
    name = item.get("Item")
    answer: dict[str, Any] = {"Item": name} if isinstance(name, str) else {}
    try:
        if not isinstance(name, str):
            raise _Refused(MALFORMED_REQUEST, f"Item: expected a string, found {type_name(name)}")
        problem = setting_problem(name, device.mac.os_version, channel, management_of(device))
        setter = _SETTERS.get(name)
        if problem is not None or setter is None:
            raise _Refused(INVALID_REQUEST_TYPE, problem or f"the setting {name} is not supported")
        setter(device, item)
    except _Refused as refused:
        error = ChainedError(Domain.MDM, refused.code, str(refused))
        return {**answer, "Status": "Error", "ErrorChain": [error.as_dict()]}
    return {**answer, "Status": "Acknowledged"}


def _device_name(device: Device, item: Mapping[str, Any]) -> None:
    device.settings.device_name = _text(item, "DeviceName")


def _host_name(device: Device, item: Mapping[str, Any]) -> None:
    device.settings.host_name = _text(item, "HostName")


def _organization_info(device: Device, item: Mapping[str, Any]) -> None:
    value = item.get("OrganizationInfo", {})
    if not isinstance(value, dict):
        raise _Refused(MALFORMED_REQUEST, f"OrganizationInfo: expected a dictionary, found {type_name(value)}")
    device.settings.organization_info = value


def _bluetooth(device: Device, item: Mapping[str, Any]) -> None:
    _need(device, AccessRights.NETWORK_INFORMATION, "Bluetooth")
    try:
        enabled = converted(item.get("Enabled"), bool, "Enabled of Bluetooth", device.warn)
    except WrongType as error:
        raise _Refused(MALFORMED_REQUEST, str(error)) from error
    device.system = replace(device.system, bluetooth=enabled)


def _application_configuration(device: Device, item: Mapping[str, Any]) -> None:
    _need(device, AccessRights.MANAGE_APPLICATIONS, "ApplicationConfiguration")
    configuration = item.get("Configuration")
    if configuration is not None and not isinstance(configuration, dict):
        reason = f"Configuration: expected a dictionary, found {type_name(configuration)}"
        raise _Refused(MALFORMED_REQUEST, reason)
    identifier = _text(item, "Identifier")
    app = device.system.managed_app(identifier)
    if app is None:
        raise _Refused(APP_NOT_MANAGED, f"the app {identifier[:_MAX_QUOTED]} is not managed")
    octets = b"" if configuration is None else dump_binary(configuration)
    if len(octets) > MAX_PROPERTY_LIST:
        reason = f"Configuration: expected at most {MAX_PROPERTY_LIST} bytes, found {len(octets)}"
        raise _Refused(MALFORMED_REQUEST, reason)
    device.system = device.system.with_app(replace(app, configuration=octets))


def _need(device: Device, right: AccessRights, setting: str) -> None:
    if not device.allows(right):
        raise _Refused(
            NOT_AUTHORIZED, f"{setting} needs the access right {int(right)}, which the enrollment does not give"
        )


def _mdm_options(device: Device, item: Mapping[str, Any]) -> None:
    value = item.get("MDMOptions")
    if not isinstance(value, dict):
        raise _Refused(MALFORMED_REQUEST, f"MDMOptions: expected a dictionary of booleans, found {type_name(value)}")
    try:
        options = {
            key: converted(option, bool, f"{key[:_MAX_QUOTED]} of MDMOptions", device.warn)
            for key, option in value.items()
        }
    except WrongType as error:
        raise _Refused(MALFORMED_REQUEST, str(error)) from error
    device.settings.mdm_options = {**device.settings.mdm_options, **options}


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        found = len(value) if isinstance(value, str) else type_name(value)
        raise _Refused(MALFORMED_REQUEST, f"{key}: expected a string of 1 to {_MAX_NAME} characters, found {found}")
    return value


_SETTERS: Mapping[str, Callable[[Device, Mapping[str, Any]], None]] = {
    "ApplicationConfiguration": _application_configuration,
    "Bluetooth": _bluetooth,
    "DeviceName": _device_name,
    "HostName": _host_name,
    "MDMOptions": _mdm_options,
    "OrganizationInfo": _organization_info,
}
