"""Status items that show configurations in effect: accounts, and groups of screen sharing without their connections.

Source: apple-schema declarative/status/account.list.*.yaml, screensharing.connection.group.unresolved-connection.yaml.
An item has what its configuration says; the user names are in assets, which are not used. The identifier of an account
is that of its declaration (our choice).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.device.ddm.declared import CONFIGURATION, Declaration
from agent.device.mac import Device
from agent.mdm.facts import message

_CONNECTION = "com.apple.configuration.screensharing.connection"
_ACCOUNT = "com.apple.configuration.account."
_SERVERS = {"mail.incoming": "IncomingServer", "mail.outgoing": "OutgoingServer"}
ACCOUNTS = ("caldav", "carddav", "exchange", "google", "ldap", *_SERVERS, "subscribed-calendar")
"""The kinds of accounts, by the last part of the name of their status item."""

# By key of a configuration: the key of the status item.
_SHOWN: Mapping[str, str] = {
    "CalendarServiceActive": "are-calendars-enabled",
    "CalendarURL": "calendar-url",
    "ContactsServiceActive": "are-contacts-enabled",
    "HostName": "hostname",
    "MailServiceActive": "is-mail-enabled",
    "NotesServiceActive": "are-notes-enabled",
    "Port": "port",
    "RemindersServiceActive": "are-reminders-enabled",
    "VisibleName": "visible-name",
}


def account_items(device: Device, kind: str) -> list[dict[str, Any]]:
    """The value of ``account.list.KIND``, for one of ACCOUNTS."""
    name = f"account.list.{kind}"
    keys = message("status", name).request[name].keys["status_value"].keys
    found = []
    for each in _in_effect(device, _ACCOUNT + kind.partition(".")[0]):
        payload = each.payload
        shown = {**payload, **payload.get(_SERVERS.get(kind, ""), {})}
        item = {_SHOWN[key]: value for key, value in shown.items() if key in _SHOWN and _SHOWN[key] in keys}
        found.append({"identifier": each.identifier, "declaration-identifier": each.identifier, **item})
    return found


def unresolved_groups(device: Device) -> list[dict[str, Any]]:
    """The groups of screen sharing of which a connection has no configuration in effect."""
    connections = {each.payload["ConnectionUUID"] for each in _in_effect(device, _CONNECTION)}
    found: dict[str, dict[str, Any]] = {}
    for each in _in_effect(device, f"{_CONNECTION}.group"):
        missing = [uuid for uuid in each.payload["Members"] if uuid not in connections]
        if missing:
            group = each.payload["ConnectionGroupUUID"]
            found[group] = {"identifier": group, "unresolved_connections": missing}
    return list(found.values())


def _in_effect(device: Device, name: str) -> Iterator[Declaration]:
    return (each for each in device.declared.of(CONFIGURATION) if each.type == name and each.applied)
