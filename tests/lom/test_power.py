"""The power of a Mac: every cell of its table, and any order of requests and time."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.lom.power import Power, PowerEvent, PowerMachine, RequestRefused
from agent.lom.requests import PowerRequest

BOOT = 30.0
NOW = 1000.0
OFF, BOOTING, ON = Power.OFF, Power.BOOTING, Power.ON
DOWN, STARTED, UP = PowerEvent.WENT_DOWN, PowerEvent.BOOT_STARTED, PowerEvent.CAME_UP

# What a request does in a state: the state after it and what happened, or None where it is refused.
EXPECTED: dict[tuple[Power, PowerRequest], tuple[Power, list[PowerEvent]] | None] = {
    (OFF, PowerRequest.ON): (BOOTING, [STARTED]),
    (OFF, PowerRequest.OFF): (OFF, []),
    (OFF, PowerRequest.RESET): None,
    (BOOTING, PowerRequest.ON): (BOOTING, []),
    (BOOTING, PowerRequest.OFF): (OFF, [DOWN]),
    (BOOTING, PowerRequest.RESET): (BOOTING, [DOWN, STARTED]),
    (ON, PowerRequest.ON): (ON, []),
    (ON, PowerRequest.OFF): (OFF, [DOWN]),
    (ON, PowerRequest.RESET): (BOOTING, [DOWN, STARTED]),
}


def machine_in(state: Power) -> PowerMachine:
    """A machine in ``state`` at NOW; one that boots began ten seconds before."""
    machine = PowerMachine(lambda: BOOT, OFF if state is BOOTING else state)
    if state is BOOTING:
        machine.receive(PowerRequest.ON, NOW - 10.0)
    return machine


@pytest.mark.parametrize("state", Power)
@pytest.mark.parametrize("request_type", PowerRequest)
def test_a_cell_of_the_table(state: Power, request_type: PowerRequest) -> None:
    machine = machine_in(state)
    before = machine.deadline
    expected = EXPECTED[state, request_type]
    if expected is None:
        with pytest.raises(RequestRefused, match=f"{request_type.value} refused: the Mac is {state.name.lower()}"):
            machine.receive(request_type, NOW)
        assert (machine.state, machine.deadline) == (state, before)
        return
    after, events = expected
    assert machine.receive(request_type, NOW) == events
    assert machine.state is after
    if STARTED in events:
        assert machine.deadline == NOW + BOOT
    else:
        assert machine.deadline == (before if after is BOOTING else None)


def test_a_boot_ends_at_its_deadline_and_not_before() -> None:
    machine = machine_in(OFF)
    machine.receive(PowerRequest.ON, NOW)
    assert machine.advance(NOW + BOOT - 0.001) == []
    assert machine.state is BOOTING
    assert machine.advance(NOW + BOOT) == [UP]
    assert (machine.state, machine.deadline) == (ON, None)
    assert machine.advance(NOW + 10 * BOOT) == []


def test_power_off_during_boot_cancels_the_boot() -> None:
    machine = machine_in(BOOTING)
    machine.receive(PowerRequest.OFF, NOW)
    assert machine.advance(NOW + 10 * BOOT) == []
    assert (machine.state, machine.deadline) == (OFF, None)


def test_a_reset_during_boot_begins_it_anew() -> None:
    machine = machine_in(BOOTING)
    machine.receive(PowerRequest.RESET, NOW)
    assert machine.advance(NOW + BOOT - 10.0) == []
    assert machine.advance(NOW + BOOT) == [UP]


def test_a_request_after_the_end_of_a_boot_finds_the_mac_on_though_nobody_looked() -> None:
    machine = machine_in(BOOTING)
    assert machine.receive(PowerRequest.ON, NOW + BOOT) == [UP]
    machine = machine_in(BOOTING)
    assert machine.receive(PowerRequest.RESET, NOW + BOOT) == [UP, DOWN, STARTED]
    assert machine.deadline == NOW + 2 * BOOT


class AnyOrder(RuleBasedStateMachine):
    """Requests and time in any order, beside the simplest model: a state and the end of the boot."""

    @initialize(state=st.sampled_from([OFF, ON]))
    def begin(self, state: Power) -> None:
        self.now = NOW
        self.boot = BOOT
        self.machine = PowerMachine(lambda: self.boot, state)
        self.state = state
        self.end: float | None = None

    def time_passes(self, seconds: float) -> list[PowerEvent]:
        self.now += seconds
        if self.end is None or self.now < self.end:
            return []
        self.state, self.end = ON, None
        return [UP]

    @rule(seconds=st.floats(0.0, 2 * BOOT), boot=st.floats(0.0, BOOT), request_type=st.sampled_from(PowerRequest))
    def receive(self, seconds: float, boot: float, request_type: PowerRequest) -> None:
        self.boot = boot
        events = self.time_passes(seconds)
        expected = EXPECTED[self.state, request_type]
        if expected is None:
            with pytest.raises(RequestRefused):
                self.machine.receive(request_type, self.now)
            return
        self.state, more = expected
        if STARTED in more:
            self.end = self.now + boot
        elif self.state is not BOOTING:
            self.end = None
        assert self.machine.receive(request_type, self.now) == events + more

    @rule(seconds=st.floats(0.0, 2 * BOOT))
    def advance(self, seconds: float) -> None:
        events = self.time_passes(seconds)
        assert self.machine.advance(self.now) == events

    @invariant()
    def the_machine_is_where_the_table_says(self) -> None:
        assert (self.machine.state, self.machine.deadline) == (self.state, self.end)
        assert (self.machine.deadline is not None) == (self.machine.state is BOOTING)


TestAnyOrder = AnyOrder.TestCase
