"""A Mac's software update: what it leads to, when it downloads and installs, and what it shows of it."""

from __future__ import annotations

import pytest

from agent.device.installing.software_update import COMMAND, DECLARATION, INSTALLING, PREPARED, Update
from agent.device.installing.updates import (
    advance,
    cancel_update,
    installed,
    local_time,
    next_deadline,
    release_numbers,
    start_update,
    target_of,
    update_status,
)
from agent.device.mac import Device
from agent.device.stored.record import activity_record, device_record, restore_activity, restore_device
from agent.fleet.population import Population
from agent.lom.power import Power, PowerEvent

DOWNLOAD, BOOT = 100.0, 10.0
NOON = 1_796_126_400.0  # 2026-12-01T12:00:00Z


def mac(os: str = "26.2", model: str = "Mac16,10") -> Device:
    return Device(
        Population("updates", 1, os=os, model=model)[0],
        boot_seconds=lambda: BOOT,
        jitter=lambda: 0.0,
        update_seconds=lambda: DOWNLOAD,
    )


def pass_time(device: Device, until: float) -> list[PowerEvent]:
    """What happens up to ``until``, by the Mac's own deadlines; its two clocks show the same time."""
    events = []
    while (
        due := min((each for each in (next_deadline(device), device.power.deadline) if each), default=None)
    ) is not None:
        if due > until:
            break
        happened = device.power.advance(due)
        if PowerEvent.CAME_UP in happened:
            installed(device)
        events += happened + advance(device, due, due)
    return events


@pytest.mark.parametrize(
    ("version", "build", "found"),
    [
        ("26.4", "", ("26.4", "25E246")),
        ("26.4", "25E246", ("26.4", "25E246")),
        ("26.4", "26A428", ("26.4", "25E246")),  # the version takes precedence
        ("99.1", "99B1", ("99.1", "99B1")),  # tomorrow's
        ("99.1", "", None),
        ("", "99B1", None),
        ("26.4.1.1", "", None),
        ("26.٤", "", None),
    ],
)
def test_target_of_an_update(version: str, build: str, found: tuple[str, str] | None) -> None:
    device = mac()
    start_update(device, Update(version, build, COMMAND), 0.0)
    target = target_of(device, version, build) if release_numbers(version) else None
    assert (target and (target.version, target.build)) == found
    if found is None:
        assert device.update is None or device.update.state == "failed"


def test_updates_run_on_the_model() -> None:
    assert target_of(mac("26.5"), "27.0") is not None
    assert target_of(mac("26.5", "MacPro7,1"), "27.0") is None


def test_enforced_update_waits_for_its_time_and_raises_the_release() -> None:
    device, start = mac(), NOON - 1000.0
    asked = Update("27.0", "", DECLARATION, "update", "2026-12-01T12:00:00", NOON)
    start_update(device, asked, start)
    shown = update_status(device)
    assert shown["softwareupdate.install-state"] == "downloading"
    assert shown["softwareupdate.install-reason"] == {"reason": ["declaration"], "declaration-id": "update"}
    assert shown["softwareupdate.pending-version"] == {
        "os-version": "27.0",
        "build-version": "26A428",
        "target-local-date-time": "2026-12-01T12:00:00",
    }
    assert pass_time(device, NOON - 1.0) == []
    assert device.update is not None
    assert device.update.state == PREPARED
    assert next_deadline(device) == NOON
    events = pass_time(device, NOON)
    assert events == [PowerEvent.SHUTDOWN_STARTED, PowerEvent.WENT_DOWN, PowerEvent.BOOT_STARTED]
    assert device.update.state == INSTALLING
    assert device.power.deadline == NOON + BOOT + DOWNLOAD  # the boot takes as long as the installation in addition
    assert device.mac.os_version == "26.2"
    pass_time(device, NOON + BOOT + DOWNLOAD)
    assert (device.mac.os_version, device.mac.build_version, device.update) == ("27.0", "26A428", None)
    assert update_status(device) == {
        "softwareupdate.failure-reason": {"count": 0},
        "softwareupdate.install-reason": {"reason": []},
        "softwareupdate.install-state": "none",
        "softwareupdate.pending-version": {"os-version": "", "build-version": ""},
    }
    pass_time(device, NOON + 10_000.0)
    assert device.power.state is Power.ON


def test_update_that_is_not_available_fails() -> None:
    device = mac()
    for count in (1, 2):
        start_update(device, Update("99.9", "", DECLARATION, install_at=NOON), NOON)
        shown = update_status(device)
        assert (shown["softwareupdate.install-state"], shown["softwareupdate.install-reason"]) == (
            "failed",
            {"reason": []},
        )
        assert shown["softwareupdate.failure-reason"]["count"] == count
        assert shown["softwareupdate.failure-reason"]["timestamp"] == "2026-12-01T12:00:00Z"
    assert next_deadline(device) is None
    start_update(device, Update("27.0", "", COMMAND, install_at=0.0), NOON)
    assert update_status(device)["softwareupdate.failure-reason"] == {"count": 0}


def test_late_and_repeated_orders() -> None:
    device = mac()
    start_update(device, Update("27.0", "", COMMAND), NOON)  # download only
    pass_time(device, NOON + DOWNLOAD)
    assert next_deadline(device) is None
    start_update(device, Update("27.0", "", DECLARATION, install_at=NOON - 5.0), NOON + DOWNLOAD)  # downloaded already
    pass_time(device, NOON + DOWNLOAD)
    assert device.update is not None
    assert device.update.installing
    start_update(device, Update("26.4", "", COMMAND), NOON + DOWNLOAD)
    cancel_update(device)
    assert device.update.version == "27.0"  # an installation is not stopped
    pass_time(device, NOON + 10_000.0)
    start_update(device, Update("26.4", "", COMMAND), NOON)
    assert device.update is None  # older than what the Mac has


def test_mac_that_is_off_updates_after_its_boot() -> None:
    device = mac()
    start_update(device, Update("27.0", "", DECLARATION, install_at=NOON), NOON - 1000.0)
    device.power.cut_mains(NOON - 500.0)
    assert advance(device, NOON, NOON) == []
    assert device.update is not None
    assert device.update.state == PREPARED


def test_update_outlives_the_process() -> None:
    device, again = mac(), mac()
    start_update(device, Update("27.0", "", DECLARATION, install_at=NOON), NOON - 1000.0)
    pass_time(device, NOON)
    restore_device(again, device_record(device))
    restore_activity(again, activity_record(device, NOON), NOON)
    assert again.update == device.update
    pass_time(again, NOON + BOOT + DOWNLOAD)
    third = mac()
    restore_device(third, device_record(again))
    assert (third.mac.os_version, third.mac.build_version) == ("27.0", "26A428")


@pytest.mark.parametrize(
    ("text", "shift"),
    [
        ("2026-12-01T12:00:00", 0.0),
        ("2027-12-01T12:00:00", 365 * 86400.0),
        ("2026-12-01", None),
        ("2026-12-01T12:00:0Z", None),
        ("2026-13-01T12:00:00", None),
    ],
)
def test_date_in_the_time_zone_of_the_mac(text: str, shift: float | None) -> None:
    offsets = {
        "America/Los_Angeles": 8,
        "America/New_York": 5,
        "Asia/Tokyo": -9,
        "Europe/Berlin": -1,
        "Europe/London": 0,
    }
    device = mac()
    found = local_time(device, text)
    assert found == (None if shift is None else NOON + shift + offsets[device.mac.time_zone] * 3600.0)
