"""A Device restored from the store of idle Macs behaves as before: the same answers, the same random numbers."""

from __future__ import annotations

import pytest
from device_stories import BOOT, COMMAND, EVENTS, POPULATION, Event, enrolled, lom_installed, make, seen
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.device.ddm.declared import Declaration, Declared
from agent.device.stored.packed import IdleStore
from agent.errors import PeerError
from agent.lom.requests import PowerRequest
from agent.mdm.results import Status
from agent.mdm.session import State
from agent.mdm.timing import DEFAULT_TIMING


def idle_store() -> IdleStore:
    return IdleStore(make, (BOOT, DEFAULT_TIMING))


@examples(25, explored=60)
@given(st.integers(0, 2), st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans()), max_size=8))
def test_a_restored_device_is_the_same_device(index: int, story: list[tuple[Event, bool]]) -> None:
    here, unstored, stored = idle_store(), make(index), make(index)
    now = 1000.0
    for happens, is_stored in story:
        now += 1.0
        for device in (unstored, stored):
            happens(device, now)
        if is_stored:
            stored = here.restore(index, here.serialise(stored))
    assert seen(here.restore(index, here.serialise(stored)), now) == seen(unstored, now)


def test_factory_state_is_stored_in_no_bytes() -> None:
    here = idle_store()
    device = here.restore(2, b"")
    assert device.mac == POPULATION[2]
    assert list(here.active) == [2]


def test_stored_devices_share_common_data() -> None:
    here, devices = idle_store(), [make(index) for index in range(3)]
    for device in devices:
        enrolled(device, 0.0)
        lom_installed(device, 0.0)
    kept = [here.serialise(device) for device in devices]
    assert max(len(one) for one in kept[1:]) < 1200  # two identities of P-256 alone are 1,300 in DER
    back = [here.restore(index, one) for index, one in enumerate(kept)]
    first, second = (device.enrollment for device in back[:2])
    assert first is not None
    assert second is not None
    assert first.anchors[0] is second.anchors[0]


def test_device_unlike_the_compression_dictionary_is_restored() -> None:
    here = idle_store()
    here.serialise(make(0))
    for number in range(50):  # each differs from all others
        device = make(1)
        there = [Declaration("asset", f"{number} {one}", str(number**20 + one)) for one in range(200)]
        device.declared = Declared("token", there)
        assert here.restore(1, here.serialise(device)).declared == device.declared


def test_restored_identity_is_one_object_everywhere() -> None:
    here, device = idle_store(), make(0)
    enrolled(device, 0.0)
    back = here.restore(0, here.serialise(device))
    assert back.enrollment is not None
    assert back.enrollment.identity is next(back.identities)


@pytest.mark.parametrize("state", [State.WAITING, State.WORKING])
def test_device_in_a_session_is_not_idle(state: State) -> None:
    device = make(0)
    assert device.quiet
    device.session.wake()
    if state is State.WORKING:
        device.session.answer(200, COMMAND, 0.0)
    assert device.session.state is state
    assert not device.quiet


def test_device_that_boots_or_waits_to_retry_is_not_idle() -> None:
    booting, waiting = make(0), make(1)
    booting.power.receive(PowerRequest.RESET, 0.0)
    waiting.session.wake()
    waiting.session.broke(PeerError("broken"), 0.0)
    assert not booting.quiet
    assert not waiting.quiet
    assert Status.IDLE.value.encode() in waiting.session.open().body
