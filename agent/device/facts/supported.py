"""What the macOS of a Mac supports, by the table of Apple's schema: commands, queries of DeviceInformation, settings.

Each answer depends on the release of macOS, on the channel, ``device`` or ``user``, and on how the Mac is managed. What
Apple leaves open is our choice: a command or setting that a Mac does not have, or does not have on the channel, is
answered like an unknown one, and the key of a query is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from agent.mdm.access_rights import AccessRights
from agent.mdm.facts import Fact, Key, message, of_kind, version

if TYPE_CHECKING:
    from agent.device.mac import Device

DEVICE_CHANNEL, USER_CHANNEL = "device", "user"

# The access rights by the names of the schema; it has more than one for some.
RIGHTS: Mapping[str, AccessRights] = {
    "AllowAppInstallation": AccessRights.MANAGE_APPLICATIONS,
    "AllowDeviceErase": AccessRights.ERASE_DEVICE,
    "AllowInspection": AccessRights.INSPECT_PROFILES,
    "AllowInstallationRemoval": AccessRights.INSTALL_PROFILES,
    "AllowPasscodeRemovalAndLock": AccessRights.LOCK_DEVICE,
    "AllowQueryApplications": AccessRights.INSPECT_APPLICATIONS,
    "AllowQueryDeviceInformation": AccessRights.DEVICE_INFORMATION,
    "AllowQueryNetworkInformation": AccessRights.NETWORK_INFORMATION,
    "AllowQuerySecurity": AccessRights.SECURITY,
    "AllowSettings": AccessRights.SETTINGS,
    "DeviceLockAndRemovePasscode": AccessRights.LOCK_DEVICE,
    "QueryInstalledApps": AccessRights.INSPECT_APPLICATIONS,
}

_DECLARATIONS = "com.apple.declarations"  # only a user installs it, by Apple's page
_SHOWN = 200  # characters of a name that an error quotes
_KEPT = 4096  # answers for a known name, a release and a channel


class Management(NamedTuple):
    """What the answers of a Mac depend on, beside its release of macOS and the channel."""

    automated: bool = True
    """Whether the Mac was enrolled by Automated Device Enrollment."""
    supervised: bool = True


FULL = Management()


def management_of(device: Device) -> Management:
    """How a Mac is managed."""
    return Management(device.settings.automated, device.supervised)


def command_problem(
    request_type: str, release: str, channel: str = DEVICE_CHANNEL, management: Management = FULL
) -> str | None:
    """Why a Mac with macOS ``release`` does not carry out this command on ``channel``; None if it does."""
    if request_type not in of_kind("command"):
        return f"the request type {request_type[:_SHOWN]} is not supported"
    return _command_problem(request_type, release, channel, management)


@lru_cache(maxsize=_KEPT)
def _command_problem(request_type: str, release: str, channel: str, management: Management) -> str | None:
    fact = message("command", request_type).fact
    return _problem(fact, f"the request type {request_type}", release, channel, management)


def query_exists(query: str, release: str, channel: str = DEVICE_CHANNEL, management: Management = FULL) -> bool:
    """Whether DeviceInformation of a Mac with macOS ``release`` has this query on ``channel``."""
    return query in _queries() and _query_exists(query, release, channel, management)


@lru_cache(maxsize=_KEPT)
def _query_exists(query: str, release: str, channel: str, management: Management) -> bool:
    return _problem(_queries()[query].fact, query, release, channel, management) is None


def query_right(query: str) -> AccessRights | None:
    """The access right that this query of DeviceInformation needs; None if it needs none."""
    return RIGHTS.get(_queries()[query].fact.rights)


@lru_cache(maxsize=_KEPT)
def answer_keys(request_type: str, path: str, release: str, channel: str) -> frozenset[str]:
    """The keys of a dictionary in the answer to a command that macOS ``release`` has on ``channel``.

    ``path`` is that of the dictionary in the schema, as in ``Fact``.
    """
    keys = message("command", request_type).response
    for name in path.split("/"):
        keys = keys[name].keys
    return frozenset(name for name, key in keys.items() if key.fact.is_in(release) and key.fact.is_on(channel))


def setting_problem(
    item: str, release: str, channel: str = DEVICE_CHANNEL, management: Management = FULL
) -> str | None:
    """Why a Mac with macOS ``release`` does not have this item of Settings on ``channel``; None if it has."""
    if item not in _settings():
        return f"the setting {item[:_SHOWN]} is not supported"
    return _setting_problem(item, release, channel, management)


@lru_cache(maxsize=_KEPT)
def _setting_problem(item: str, release: str, channel: str, management: Management) -> str | None:
    return _problem(_settings()[item].fact, f"the setting {item}", release, channel, management)


@lru_cache(maxsize=_KEPT)
def payload_problem(payload_type: str, channel: str, *, supervised: bool) -> str | None:
    """Why a payload of this type may not be installed on ``channel``; None if it may, and for an unknown type."""
    if payload_type == _DECLARATIONS:
        return f"a {payload_type} payload may not be installed by a server"
    known = of_kind("payload").get(payload_type)
    if known is None:
        return None
    if not known.fact.is_on(channel):
        return f"a {payload_type} payload may not be installed on the {channel} channel"
    if not supervised and known.fact.flag("supervised") is not None:
        return f"a {payload_type} payload may be installed on a supervised Mac only"
    return None


@cache
def _queries() -> Mapping[str, Key]:
    return message("command", "DeviceInformation").request["Queries"].keys["QueriesItem"].keys


@cache
def _settings() -> Mapping[str, Key]:
    return message("command", "Settings").request["Settings"].keys


def _problem(fact: Fact, name: str, release: str, channel: str, management: Management) -> str | None:
    if not fact.is_in(release):
        gone = fact.removed and version(release) >= version(fact.removed)
        reason = f"was removed in macOS {fact.removed}" if gone else f"came with macOS {fact.introduced}"
        return f"{name} is not supported by macOS {release}: it {reason}"
    if not fact.is_on(channel):
        return f"{name} is not supported on the {channel} channel"
    if fact.flag("requiresdep") is not None and not management.automated:
        return f"{name} is for a Mac that was enrolled by Automated Device Enrollment"
    if fact.flag("supervised") is not None and not management.supervised:
        return f"{name} is for a supervised Mac"
    return None
