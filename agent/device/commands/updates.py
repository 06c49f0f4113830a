"""The commands for software updates, which Apple removed in macOS 27. `agent.device.installing.updates` does them.

Source: Apple's schema 26.0, commands/system.update.*.yaml. A Mac was seen to answer such product keys and names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from agent.device.commands.reading import FORMAT_ERROR, CommandRefused, flag, is_list_of
from agent.device.installing.software_update import COMMAND, DECLARATION, DOWNLOADING, PREPARED, Update
from agent.device.installing.updates import is_newer
from agent.device.mac import Device
from agent.device.steps import CommandSteps, ReadDate, UpdateSoftware
from agent.fleet.models import RELEASES, Release, model_named, runs_on
from agent.mdm.commands import Command
from agent.mdm.facts import version
from agent.mdm.results import MALFORMED_REQUEST, ChainedError, Domain, Result, acknowledged
from agent.mdm.values import WrongType, converted

_ACTIONS = ("Default", "DownloadOnly", "InstallASAP", "NotifyOnly", "InstallLater", "InstallForceRestart")
_INSTALLING = ("InstallASAP", "InstallForceRestart")  # at once: a countdown for the user is not modelled
_DEFAULT = "InstallASAP"  # what Default becomes
_PRIORITIES = (None, "Low", "High")
_NAMES = {13: "Ventura", 14: "Sonoma", 15: "Sequoia", 26: "Tahoe"}
_MAJOR_BYTES = 12_000_000_000  # of a download; our choice
_MINOR_BYTES = 1_900_000_000


def available_os_updates(device: Device, _command: Command) -> Result:
    """The newest release of each major version, without the one that a declaration enforces."""
    newest = {release.number[0]: release for release in _newer(device)}
    offers = [_offer(device, release) for release in newest.values() if not _is_enforced(device, release)]
    return acknowledged({"AvailableOSUpdates": offers})


def _newer(device: Device) -> list[Release]:
    """The releases that are newer than the Mac's and run on it, oldest first."""
    model = model_named(device.mac.model)
    newer = [each for each in RELEASES if is_newer(device, each.version) and runs_on(each, model)]
    return sorted(newer, key=lambda each: version(each.version))


def _offer(device: Device, release: Release) -> dict[str, Any]:
    major = _is_major(device, release)
    name = " ".join(filter(None, ("macOS", _NAMES.get(release.number[0]), release.version)))
    offer: dict[str, Any] = {
        "AllowsInstallLater": True,
        "AppIdentifiersToClose": [],
        "Build": release.build,
        "DownloadSize": _MAJOR_BYTES if major else _MINOR_BYTES,
        "HumanReadableName": name,
        "HumanReadableNameLocale": "en-US",
        "IsConfigDataUpdate": False,
        "IsCritical": False,
        "IsFirmwareUpdate": False,
        "IsMajorOSUpdate": major,
        "IsSecurityResponse": False,
        "ProductKey": _product_key(device, release),
        "RestartRequired": True,
        "SupplementalBuildVersion": release.build,
        "Version": release.version,
    }
    if device.mac.apple_silicon:
        offer["RequiresBootstrapToken"] = True
    return offer


def _is_major(device: Device, release: Release) -> bool:
    return release.number[0] != version(device.mac.os_version)[0]


def _product_key(device: Device, release: Release) -> str:
    kind = "major" if _is_major(device, release) else "minor"
    return f"MSU_UPDATE_{release.build}_patch_{release.version}_{kind}"


def _is_enforced(device: Device, release: Release) -> bool:
    """Whether a declaration enforces the update, so that commands leave it alone."""
    update = device.update
    return update is not None and update.reason == DECLARATION and update.version == release.version


def schedule_os_update_scan(device: Device, command: Command) -> CommandSteps:
    """Look for updates. The list of AvailableOSUpdates is always up to date."""
    flag(device, command, "Force")
    now: float = yield ReadDate()
    device.system = replace(device.system, scanned_at=now)
    return acknowledged({"ScanInitiated": True})


def schedule_os_update(device: Device, command: Command) -> Result:
    """Download updates, and install them where InstallAction says so, once the server has accepted the answer."""
    items = command.body.get("Updates")
    if not is_list_of(items, dict) or not all(_is_valid(device, item) for item in items):
        return FORMAT_ERROR
    return acknowledged({"UpdateResults": [_scheduled(device, item) for item in items]})


def _is_valid(device: Device, item: Mapping[str, Any]) -> bool:
    key, named = item.get("ProductKey", ""), item.get("ProductVersion", "")
    try:
        converted(item.get("MaxUserDeferrals", 0), int, "MaxUserDeferrals of ScheduleOSUpdate", device.warn)
    except WrongType as error:
        raise CommandRefused(FORMAT_ERROR) from error
    texts = isinstance(key, str) and isinstance(named, str) and bool(key or named)
    return texts and item.get("InstallAction") in _ACTIONS and item.get("Priority") in _PRIORITIES


def _scheduled(device: Device, item: Mapping[str, Any]) -> dict[str, Any]:
    key, named = item.get("ProductKey", ""), item.get("ProductVersion", "")
    release = _release(device, key, named)
    if release is None:
        return _unscheduled(key, f"the update {(key or named)[:80]} is not available for this Mac")
    key = _product_key(device, release)
    if _is_enforced(device, release):
        return _unscheduled(key, f"a declaration enforces the update {release.version}")
    action = _DEFAULT if item["InstallAction"] == "Default" else item["InstallAction"]
    installs = action in _INSTALLING
    status = "Downloading"
    if device.update is not None and device.update.version == release.version and device.update.state == PREPARED:
        status = "Installing" if installs else "Idle"
    asked = Update(release.version, release.build, COMMAND, install_at=0.0 if installs else None)
    device.after_delivery(UpdateSoftware(asked))
    return {"ProductKey": key, "InstallAction": action, "Status": status}


def _release(device: Device, key: str, named: str) -> Release | None:
    """The release with this product key or, where that is empty, the newest build of this version."""
    for release in reversed(_newer(device)):
        if (_product_key(device, release) == key) if key else (release.version == named):
            return release
    return None


def _unscheduled(key: str, reason: str) -> dict[str, Any]:
    chain = [ChainedError(Domain.MDM, MALFORMED_REQUEST, reason).as_dict()]
    return {"ProductKey": key, "InstallAction": "Error", "Status": "Idle", "ErrorChain": chain}


def os_update_status(device: Device, _command: Command) -> CommandSteps:
    """The update that a command has asked for."""
    now: float = yield ReadDate()
    update = device.update
    release = None if update is None else _release(device, "", update.version)
    if update is None or release is None or update.reason != COMMAND:
        return acknowledged({"OSUpdateStatus": []})
    downloading = update.state == DOWNLOADING and now < update.prepared_at
    status = "Downloading" if downloading else "Installing" if update.install_at is not None else "Idle"
    item = {
        "ProductKey": _product_key(device, release),
        "IsDownloaded": not downloading,
        "DownloadPercentComplete": update.progress(now) if downloading else 1.0,
        "Status": status,
    }
    return acknowledged({"OSUpdateStatus": [item]})
