"""The software updates of a Mac: which are offered, and how one is installed.

``ask_for`` and ``start`` serve commands and declarations alike. An update is downloaded while the Mac runs; then it
restarts, and the boot that installs the update takes longer than others.
Source: Apple's schema 26.0, commands/system.update.*.yaml. Product keys have the form that Macs were seen to answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from agent.device.mac import Device
from agent.device.steps import StartUpdate
from agent.device.system import Update
from agent.fleet.models import RELEASES, Release, model_named, runs_on
from agent.fleet.population import Mac
from agent.mdm.facts import version

MAJOR_BYTES = 12_000_000_000  # of a download; our choice
MINOR_BYTES = 1_900_000_000
INSTALLING = ("InstallASAP", "InstallForceRestart")  # InstallActions that install the update at once


def newer_releases(mac: Mac) -> list[Release]:
    """Every release that the Mac can be updated to, oldest first."""
    model, present = model_named(mac.model), version(mac.os_version)
    found = [release for release in RELEASES if version(release.version) > present and runs_on(release, model)]
    return sorted(found, key=lambda release: version(release.version))


def offered_releases(mac: Mac) -> list[Release]:
    """What the Mac lists as available: the newest release of each major version from its own on."""
    newest = {release.number[0]: release for release in newer_releases(mac)}
    return list(newest.values())


def is_major(mac: Mac, release: Release) -> bool:
    """Whether the update raises the major version."""
    return release.number[0] != version(mac.os_version)[0]


def product_key(mac: Mac, release: Release) -> str:
    """The ProductKey of a release as this Mac names it."""
    kind = "major" if is_major(mac, release) else "minor"
    return f"MSU_UPDATE_{release.build}_patch_{release.version}_{kind}"


def download_bytes(mac: Mac, release: Release) -> int:
    """The size of the download."""
    return MAJOR_BYTES if is_major(mac, release) else MINOR_BYTES


def release_named(mac: Mac, *, key: str = "", named: str = "") -> Release | None:
    """The release with this product key or, where that is empty, this version; None if the Mac cannot install it."""
    found: Sequence[Release] = newer_releases(mac)
    if key:
        return next((release for release in found if product_key(mac, release) == key), None)
    return next((release for release in reversed(found) if release.version == named), None)


def is_downloaded(update: Update, now: float) -> bool:
    """Whether the download has ended at ``now`` (seconds since the epoch)."""
    return update.seconds >= 0 and now >= update.started + update.seconds


def progress(update: Update, now: float) -> float:
    """The share of the download that is done, 0 to 1."""
    if update.seconds < 0:
        return 0.0
    return 1.0 if update.seconds == 0 else min(1.0, max(0.0, (now - update.started) / update.seconds))


def ask_for(device: Device, release: Release, action: str, deferrals: int | None = None) -> None:
    """Ask for this update; it starts when the server has accepted the answer, or by ``start``.

    An update that is downloaded is not downloaded again. Any other that was asked for is given up.
    """
    before = device.system.update
    if before is None or (before.version, before.build) != (release.version, release.build):
        before = Update(version=release.version, build=release.build, action=action, started=0.0, seconds=-1.0)
    device.system = replace(device.system, update=replace(before, action=action, deferrals=deferrals))
    device.after_delivery(StartUpdate())


def start(device: Device, now: float, date: float) -> None:
    """Start the download of the update that was asked for, and plan its installation where its action says so.

    ``now`` is the caller's clock, ``date`` the seconds since the epoch. The caller sets the alarm for the power.
    """
    update = device.system.update
    if update is None or not device.running:
        return
    if update.seconds < 0:
        update = replace(update, started=date, seconds=device.power.draw_download())
        device.system = replace(device.system, update=update)
    if update.action in INSTALLING:
        device.power.plan_update(max(now, now + update.started + update.seconds - date))


def finish(device: Device) -> None:
    """The boot that installs the update is over."""
    update = device.system.update
    if update is not None:
        device.system = replace(device.system, update=None, version=update.version, build=update.build)


def came_up(device: Device) -> None:
    """The Mac has booted: a firmware password takes effect, and an update that was interrupted is given up."""
    state = device.system
    firmware = state.firmware
    if firmware.pending is not None:
        set_now = replace(
            firmware,
            password=firmware.pending,
            option_roms=firmware.pending_option_roms,
            pending=None,
            pending_option_roms=False,
        )
        device.system = state = replace(state, firmware=set_now)
    if state.update is not None and state.update.action in INSTALLING:
        device.system = replace(state, update=None)
