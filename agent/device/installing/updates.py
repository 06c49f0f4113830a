"""A Mac's software update: download, wait for its time, installation during a restart. No I/O.

Commands and declarations plan an update; ``net`` calls ``advance`` when its deadline comes, and ``installed`` after the
boot. Times are seconds since the epoch, because the server names dates.
Source: apple-schema declarative/status/softwareupdate.*.yaml,
declarations/configurations/softwareupdate.enforcement.specific.yaml, commands/system.update.*.yaml.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.device.installing.software_update import DOWNLOADING, FAILED, INSTALLING, NONE, PREPARED, Update
from agent.device.mac import Device
from agent.fleet.models import RELEASES, model_named, runs_on
from agent.fleet.time_zones import time_zone
from agent.lom.power import PowerEvent, RequestRefused, SystemRequest

NOT_FOUND = "the update is not available for this Mac"
_MAX_PARTS = 3  # of a version


class Target(msgspec.Struct, frozen=True):
    """A release that an update leads to."""

    version: str
    build: str


def target_of(device: Device, version: str, build: str = "") -> Target | None:
    """What an update to ``version`` leads to; None if there is no such update for this Mac.

    The version takes precedence over a build that is of another one. A version that no table has is taken with its
    build, so that a server can name the release of tomorrow.
    """
    model = model_named(device.mac.model)
    same = [each for each in RELEASES if release_numbers(each.version) == release_numbers(version)]
    builds = [each.build for each in same if runs_on(each, model)]
    if builds:
        return Target(version, build if build in builds else builds[0])
    return Target(version, build) if build and not same else None


def is_newer(device: Device, version: str) -> bool:
    """Whether ``version`` is newer than the Mac's release. False for a text that is no version."""
    return release_numbers(version) > release_numbers(device.mac.os_version)


def release_numbers(version: str) -> tuple[int, ...]:
    """A version of a server, for comparisons: ``26.4`` is before ``27``. Empty for a text that is none."""
    parts = version.split(".", _MAX_PARTS)
    if len(parts) > _MAX_PARTS or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return ()
    return tuple([*map(int, parts), 0, 0][:_MAX_PARTS])


def start_update(device: Device, asked: Update, now: float) -> None:
    """Download an update, and install it when its time has come. No effect if the Mac has this release or a newer one.

    An update that is being installed goes on instead.
    """
    pending = device.update
    if (pending is not None and pending.installing) or not is_newer(device, asked.version):
        return
    target = target_of(device, asked.version, asked.build)
    update = replace(asked, build=asked.build if target is None else target.build)
    if pending is not None and pending.version == asked.version:
        update.failures, update.failed_at = pending.failures, pending.failed_at
    if target is None:
        update.state, update.failures, update.failed_at = FAILED, update.failures + 1, now
    elif (
        pending is None or pending.state == FAILED or (pending.version, pending.build) != (target.version, target.build)
    ):
        update.state, update.prepared_at = DOWNLOADING, now + device.update_seconds()
        update.started_at = now
    else:
        update.state, update.prepared_at = pending.state, pending.prepared_at
        update.started_at = pending.started_at
    device.update = update


def cancel_update(device: Device) -> None:
    """Forget the pending update, unless it is being installed."""
    if device.update is not None and not device.update.installing:
        device.update = None


def next_deadline(device: Device) -> float | None:
    """When ``advance`` is due; None if nothing of the update is."""
    update = device.update
    if update is None:
        return None
    if update.state == DOWNLOADING:
        return update.prepared_at
    if update.state == PREPARED and update.install_at is not None:
        return max(update.install_at, update.prepared_at)
    return None


def advance(device: Device, now: float, clock_now: float) -> list[PowerEvent]:
    """What is due by ``now``: the end of the download, and the installation, which restarts the Mac.

    ``clock_now`` is the same moment on the clock of the Mac's power. Returns the power events, in order.
    """
    update = device.update
    if update is not None and update.state == DOWNLOADING and now >= update.prepared_at:
        update.state = PREPARED
    if update is None or update.state != PREPARED or update.install_at is None or now < update.install_at:
        return []
    try:
        events = device.power.receive(SystemRequest.RESTART, clock_now)
    except RequestRefused:  # the Mac is off or shutting down: after its next boot
        return []
    update.state = INSTALLING
    device.power.prolong_boot(device.update_seconds())
    return events


def installed(device: Device) -> bool:
    """The Mac has booted: an update that was being installed is in effect. Returns whether there was one."""
    update = device.update
    if update is None or not update.installing:
        return False
    device.mac = device.mac.with_release(update.version, update.build)
    device.update = None
    return True


def local_time(device: Device, text: str) -> float | None:
    """The date of ``yyyy-mm-ddThh:mm:ss`` in the Mac's time zone, in seconds since the epoch; None for another text."""
    if len(text) != len("2026-01-01T00:00:00"):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=time_zone(device.mac.time_zone)).timestamp()
    except (ValueError, OverflowError):
        return None


def update_status(device: Device) -> dict[str, Any]:
    """The values of the status items of software updates that depend on the pending update, by name."""
    update = device.update
    pending = update if update is not None and update.state != FAILED else None
    failures: dict[str, Any] = {"count": 0 if update is None else update.failures}
    if update is not None and update.failures:
        failures |= {"reason": NOT_FOUND, "timestamp": rfc_3339(update.failed_at)}
    reason: dict[str, Any] = {"reason": [] if pending is None else [pending.reason]}
    version = {"os-version": "", "build-version": ""}
    if pending is not None:
        version = {"os-version": pending.version, "build-version": pending.build}
        if pending.declaration:
            reason["declaration-id"] = pending.declaration
        if pending.local_time:
            version["target-local-date-time"] = pending.local_time
    return {
        "softwareupdate.failure-reason": failures,
        "softwareupdate.install-reason": reason,
        "softwareupdate.install-state": NONE if update is None else update.state,
        "softwareupdate.pending-version": version,
    }


def rfc_3339(seconds: float) -> str:
    """A date in UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
