"""What the macOS of a Mac supports, by the table of Apple's schema: commands, queries of DeviceInformation, settings.

Each answer depends on the release of macOS and on the channel, ``device`` or ``user``. What Apple leaves open is our
choice: a command or setting that a release does not have, or does not have on the channel, is answered like an unknown
one, and the key of a query is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache

from agent.mdm.access_rights import AccessRights
from agent.mdm.facts import Fact, Key, message, of_kind, version

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

_SHOWN = 200  # characters of a name that an error quotes
_KEPT = 4096  # answers for a known name, a release and a channel


def command_problem(
    request_type: str, release: str, channel: str = DEVICE_CHANNEL, *, automated: bool = True
) -> str | None:
    """Why macOS ``release`` does not carry out this command on ``channel``; None if it does.

    ``automated``: the Mac was enrolled by Automated Device Enrollment, which some commands need.
    """
    if request_type not in of_kind("command"):
        return f"the request type {request_type[:_SHOWN]} is not supported"
    return _command_problem(request_type, release, channel, automated)


@lru_cache(maxsize=_KEPT)
def _command_problem(request_type: str, release: str, channel: str, automated: bool) -> str | None:
    fact, name = message("command", request_type).fact, f"the request type {request_type}"
    problem = _problem(fact, name, release, channel)
    if problem is None and not automated and _needs_automation(fact):
        return f"{name} is for a Mac that was enrolled by Automated Device Enrollment"
    return problem


def _needs_automation(fact: Fact) -> bool:
    return fact.flag("requiresdep") is not None


def query_exists(query: str, release: str, channel: str = DEVICE_CHANNEL, *, automated: bool = True) -> bool:
    """Whether DeviceInformation of macOS ``release`` has this query on ``channel``; ``automated`` as above."""
    return query in _queries() and _query_exists(query, release, channel, automated)


@lru_cache(maxsize=_KEPT)
def _query_exists(query: str, release: str, channel: str, automated: bool) -> bool:
    fact = _queries()[query].fact
    return _problem(fact, query, release, channel) is None and (automated or not _needs_automation(fact))


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


def setting_problem(item: str, release: str, channel: str = DEVICE_CHANNEL) -> str | None:
    """Why macOS ``release`` does not have this item of Settings on ``channel``; None if it has."""
    if item not in _settings():
        return f"the setting {item[:_SHOWN]} is not supported"
    return _setting_problem(item, release, channel)


@lru_cache(maxsize=_KEPT)
def _setting_problem(item: str, release: str, channel: str) -> str | None:
    return _problem(_settings()[item].fact, f"the setting {item}", release, channel)


@cache
def _queries() -> Mapping[str, Key]:
    return message("command", "DeviceInformation").request["Queries"].keys["QueriesItem"].keys


@cache
def _settings() -> Mapping[str, Key]:
    return message("command", "Settings").request["Settings"].keys


def _problem(fact: Fact, name: str, release: str, channel: str) -> str | None:
    if not fact.is_in(release):
        gone = fact.removed and version(release) >= version(fact.removed)
        reason = f"was removed in macOS {fact.removed}" if gone else f"came with macOS {fact.introduced}"
        return f"{name} is not supported by macOS {release}: it {reason}"
    return None if fact.is_on(channel) else f"{name} is not supported on the {channel} channel"
