"""The commands for software updates, which Apple removed in macOS 27.

Source: Apple's schema 26.0, commands/system.update.*.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.device.commands.reading import FORMAT_ERROR, CommandRefused, flag, is_list_of
from agent.device.mac import Device
from agent.device.steps import CommandSteps, ReadDate
from agent.device.updates import (
    INSTALLING,
    ask_for,
    download_bytes,
    is_downloaded,
    is_major,
    offered_releases,
    product_key,
    progress,
    release_named,
)
from agent.fleet.models import Release
from agent.fleet.population import Mac
from agent.mdm.commands import Command
from agent.mdm.results import MALFORMED_REQUEST, ChainedError, Domain, Result, acknowledged
from agent.mdm.values import WrongType, converted

_ACTIONS = ("Default", "DownloadOnly", "InstallASAP", "NotifyOnly", "InstallLater", "InstallForceRestart")
_DEFAULT = "InstallASAP"  # what Default becomes; nobody is logged in, so that the Mac restarts at once
_NAMES = {13: "Ventura", 14: "Sonoma", 15: "Sequoia", 26: "Tahoe"}


def available_os_updates(device: Device, _command: Command) -> Result:
    """The updates that the Mac is offered."""
    mac = device.mac
    return acknowledged({"AvailableOSUpdates": [_offer(mac, release) for release in offered_releases(mac)]})


def _offer(mac: Mac, release: Release) -> dict[str, Any]:
    major = is_major(mac, release)
    name = " ".join(filter(None, ("macOS", _NAMES.get(release.number[0], ""), release.version)))
    return {
        "AllowsInstallLater": True,
        "AppIdentifiersToClose": [],
        "Build": release.build,
        "DownloadSize": download_bytes(mac, release),
        "HumanReadableName": name,
        "HumanReadableNameLocale": "en-US",
        "IsConfigDataUpdate": False,
        "IsCritical": False,
        "IsFirmwareUpdate": False,
        "IsMajorOSUpdate": major,
        "IsSecurityResponse": False,
        "ProductKey": product_key(mac, release),
        "RequiresBootstrapToken": mac.apple_silicon,
        "RestartRequired": True,
        "SupplementalBuildVersion": release.build,
        "Version": release.version,
    }


def schedule_os_update_scan(device: Device, command: Command) -> Result:
    """Look for updates. The list of AvailableOSUpdates is always up to date."""
    flag(device, command, "Force")
    return acknowledged({"ScanInitiated": True})


def schedule_os_update(device: Device, command: Command) -> Result | CommandSteps:
    """Download updates, and install them where InstallAction says so."""
    items = command.body.get("Updates")
    if not is_list_of(items, dict) or any(item.get("InstallAction") not in _ACTIONS for item in items):
        return FORMAT_ERROR
    return _schedule(device, items)


def _schedule(device: Device, items: list[dict[str, Any]]) -> CommandSteps:
    now: float = yield ReadDate()
    return acknowledged({"UpdateResults": [_scheduled(device, item, now) for item in items]})


def _scheduled(device: Device, item: Mapping[str, Any], now: float) -> dict[str, Any]:
    key, named = item.get("ProductKey", ""), item.get("ProductVersion", "")
    if not isinstance(key, str) or not isinstance(named, str) or not (key or named):
        raise CommandRefused(FORMAT_ERROR)
    deferrals = _deferrals(device, item)
    release = release_named(device.mac, key=key, named=named)
    if release is None:
        reason = f"the update {(key or named)[:80]} is not available for this Mac"
        chain = [ChainedError(Domain.MDM, MALFORMED_REQUEST, reason).as_dict()]
        return {"ProductKey": key, "InstallAction": "Error", "Status": "Idle", "ErrorChain": chain}
    action = _DEFAULT if item["InstallAction"] == "Default" else item["InstallAction"]
    ask_for(device, release, action, deferrals if action == "InstallLater" else None)
    return {
        "ProductKey": product_key(device.mac, release),
        "InstallAction": action,
        "Status": _status(device, now),
    }


def _deferrals(device: Device, item: Mapping[str, Any]) -> int | None:
    value = item.get("MaxUserDeferrals")
    if value is None:
        return None
    try:
        return converted(value, int, "MaxUserDeferrals of ScheduleOSUpdate", device.warn)
    except WrongType as error:
        raise CommandRefused(FORMAT_ERROR) from error


def _status(device: Device, now: float) -> str:
    update = device.system.update
    if update is None or not is_downloaded(update, now):
        return "Downloading"
    return "Installing" if update.action in INSTALLING else "Idle"


def os_update_status(device: Device, _command: Command) -> CommandSteps:
    """The update in progress."""
    now: float = yield ReadDate()
    update = device.system.update
    release = None if update is None else release_named(device.mac, named=update.version)
    if update is None or release is None:
        return acknowledged({"OSUpdateStatus": []})
    item: dict[str, Any] = {
        "ProductKey": product_key(device.mac, release),
        "IsDownloaded": is_downloaded(update, now),
        "DownloadPercentComplete": progress(update, now),
        "Status": _status(device, now),
    }
    if update.deferrals is not None:
        item |= {"MaxDeferrals": update.deferrals, "DeferralsRemaining": update.deferrals}
    return acknowledged({"OSUpdateStatus": [item]})
