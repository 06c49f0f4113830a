"""A Device made again from its record, in another process and at another time, behaves as before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from device_stories import (
    COMMAND,
    ENROLLMENTS,
    EVENTS,
    Event,
    answer,
    enrolled,
    lom_installed,
    make,
    seen,
)
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.device.installing.profiles import enrollment_steps, resumed_enrollment_steps
from agent.device.mac import Device
from agent.device.steps import ChangePower, CheckIn, Done, Erase, LeaveManagement, SynchroniseDeclarations, advance
from agent.device.stored.record import activity_record, device_record, restore_activity, restore_device
from agent.device.stored.types import ActivityRecord
from agent.errors import PeerError
from agent.lom.power import SystemRequest
from agent.lom.requests import PowerRequest
from agent.mdm.results import Result, Status, acknowledged
from agent.mdm.session import Execute, Send

LATER = 4096.0  # between the clock of the process that wrote and of the one that reads


def booting(device: Device, now: float) -> None:
    if device.running:
        device.power.receive(PowerRequest.RESET, now)
        device.lose_power()


def shutting_down(device: Device, now: float) -> None:
    if device.running:
        device.power.receive(SystemRequest.RESTART, now)


def without_mains(device: Device, now: float) -> None:
    device.power.cut_mains(now)
    device.lose_power()


def waiting(device: Device, now: float) -> None:
    """A session that failed: the Mac tries again after the back-off."""
    if device.session.wake() is not None:
        device.session.broke(PeerError("broken"), now)


def refused(device: Device, now: float) -> None:
    """The server refuses a result; the Mac still owes it."""
    if isinstance(device.session.wake(), Send):
        event = device.session.answer(200, COMMAND, now)
        assert isinstance(event, Execute)
        device.session.finish(event.command.uuid, Result(Status.NOT_NOW))
        device.session.answer(400, b"", now)


def scheduling(device: Device, now: float) -> None:
    """A result is due whose delivery has effects."""
    if isinstance(device.session.wake(), Send):
        event = device.session.answer(200, COMMAND, now)
        assert isinstance(event, Execute)
        for what in (ChangePower(SystemRequest.RESTART), SynchroniseDeclarations(b"{}"), Erase(), LeaveManagement()):
            device.after_delivery(what)
        device.session.finish(event.command.uuid, acknowledged())
        device.session.power_lost()


STORY = [*EVENTS, booting, shutting_down, without_mains, waiting, refused, scheduling]


def restored(device: Device, now: float, then: float) -> Device:
    """The Device as another process makes it."""
    octets = device_record(device), msgspec.msgpack.encode(activity_record(device, now))
    again = make(device.mac.index)
    restore_device(again, octets[0])
    restore_activity(again, msgspec.msgpack.decode(octets[1], type=ActivityRecord), then)
    return again


def visible(device: Device, now: float, last: float) -> list[Any]:
    """What is seen of a Device, with its times from ``now``; what is overdue is due at once."""
    left_at = device.left_at
    times = [device.power.deadline, device.session.deadline]
    state = [device.power.state, device.power.boots_after, device.power.cut, device.settings, device.scheduled[:2]]
    found = [*times, *state, *seen(device, now, last)]
    return [
        max(0.0, round(one - now, 6)) if isinstance(one, float) and one != left_at and one > 900.0 else one
        for one in found
    ]


@examples(60)
@given(st.integers(0, 2), st.lists(st.tuples(st.sampled_from(STORY), st.booleans()), max_size=8))
def test_a_device_from_its_record_is_the_same_device(index: int, story: list[tuple[Event, bool]]) -> None:
    here, there = make(index), make(index)
    now = 1000.0
    for happens, is_restored in story:
        now += 1.0
        for device in (here, there):
            happens(device, now)
        if is_restored:
            there = restored(there, now, now)
    assert device_record(restored(there, now, now)) == device_record(here)
    assert visible(restored(there, now, now + LATER), now + LATER, now) == visible(here, now, now)


def test_an_enrollment_in_progress_continues_with_the_check_in_that_is_not_answered() -> None:
    device = make(0)
    steps = enrollment_steps(device, ENROLLMENTS[0])
    parts = []
    need = advance(steps, None)
    while isinstance(need, CheckIn) and need.message["MessageType"] != "TokenUpdate":
        parts.append(need.message["MessageType"])
        need = advance(steps, b"")
    assert parts == ["Authenticate"]
    again = restored(device, 0.0, 0.0)
    assert again.enrollment is None
    assert again.enrolling is not None
    rest = resumed_enrollment_steps(again, again.enrolling)
    need = advance(rest, None)
    assert isinstance(need, CheckIn)
    assert need.message["MessageType"] == "TokenUpdate"
    while not isinstance(need, Done):
        need = advance(rest, b"")
    need = advance(steps, b"")
    while not isinstance(need, Done):
        need = advance(steps, b"")
    assert again.enrollment == device.enrollment
    assert again.enrolling is None
    assert device_record(again) == device_record(device)


def test_an_enrollment_that_fails_is_no_longer_in_progress() -> None:
    device = make(0)
    steps = enrollment_steps(device, ENROLLMENTS[0])
    advance(steps, None)
    assert device.enrolling is not None
    with pytest.raises(PeerError, match="refused"):
        advance(steps, PeerError("refused"))
    assert device.enrolling is None


def test_an_identity_is_one_object_and_each_certificate_is_written_once() -> None:
    device = make(0)
    enrolled(device, 0.0)
    lom_installed(device, 0.0)
    octets = device_record(device)
    again = make(0)
    restore_device(again, octets)
    assert again.enrollment is not None
    assert again.enrollment.identity is next(again.identities)
    for identity in again.identities:
        assert octets.count(identity.octets[0]) == 1
        assert octets.count(identity.octets[1]) == 1


@pytest.mark.parametrize("octets", [b"", b"\x80", b"\x81\xa1x\x01", b"\x81\xaccertificates\x91\xc4\x01\x00"])
def test_what_is_no_record_is_an_error(octets: bytes) -> None:
    device = make(0)
    if octets == b"\x80":  # the record of a Mac in its factory state
        restore_device(device, octets)
        assert device_record(device) == device_record(make(0))
        return
    with pytest.raises((ValueError, PeerError)):
        restore_device(device, octets)


def test_a_setting_of_any_property_list_value_is_kept() -> None:
    device = make(0)
    info = {"OrganizationName": "Zoé", "Number": 2**63, "Data": b"\x00", "List": [True, 1.5, {"a": ""}]}
    answer(device, "Settings", Settings=[{"Item": "OrganizationInfo", "OrganizationInfo": info}])
    assert restored(device, 0.0, 0.0).settings == device.settings
