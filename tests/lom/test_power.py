"""The power state of a Mac: every cell of the table with every choice, and requests and time in any order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from examples import examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import inspect

from agent.errors import MisuseError
from agent.lom.power import (
    CHOICES,
    DEFAULT_CHOICES,
    TABLE,
    AnyRequest,
    Power,
    PowerChoices,
    PowerEvent,
    PowerMachine,
    RequestRefused,
    SystemRequest,
)
from agent.lom.requests import PowerRequest

BOOT, SHUTDOWN = 30.0, 5.0
NOW = 1000.0
OFF, BOOTING, ON, SHUTTING_DOWN = Power.OFF, Power.BOOTING, Power.ON, Power.SHUTTING_DOWN
DOWN, STARTED, UP, LEAVING = (
    PowerEvent.WENT_DOWN,
    PowerEvent.BOOT_STARTED,
    PowerEvent.CAME_UP,
    PowerEvent.SHUTDOWN_STARTED,
)
PowerON, PowerOFF, Reset = PowerRequest  # Apple's spelling
RESTART, SHUT_DOWN = SystemRequest
REQUESTS: tuple[AnyRequest, ...] = (*PowerRequest, *SystemRequest)

# What a request does in a state: the state after it and what happened, or None where it is refused.
Effect = tuple[Power, list[PowerEvent]] | None

FIXED: dict[tuple[Power, AnyRequest], Effect] = {
    (OFF, PowerON): (BOOTING, [STARTED]),
    (BOOTING, PowerOFF): (OFF, [DOWN]),
    (ON, PowerOFF): (OFF, [DOWN]),
    (ON, Reset): (BOOTING, [DOWN, STARTED]),
    (ON, RESTART): (SHUTTING_DOWN, [LEAVING]),
    (ON, SHUT_DOWN): (SHUTTING_DOWN, [LEAVING]),
    **{(state, own): None for state in (OFF, BOOTING, SHUTTING_DOWN) for own in (RESTART, SHUT_DOWN)},
}
CHOSEN: dict[tuple[Power, AnyRequest], tuple[str, dict[str, Effect]]] = {
    (OFF, PowerOFF): ("power_off_while_off", {"success": (OFF, []), "refuse": None}),
    (OFF, Reset): ("reset_while_off", {"refuse": None, "boot": (BOOTING, [STARTED])}),
    (BOOTING, PowerON): ("power_on_while_booting", {"success": (BOOTING, []), "refuse": None}),
    (BOOTING, Reset): (
        "reset_while_booting",
        {"boot": (BOOTING, [DOWN, STARTED]), "success": (BOOTING, []), "refuse": None},
    ),
    (ON, PowerON): ("power_on_while_on", {"success": (ON, []), "refuse": None}),
    (SHUTTING_DOWN, PowerON): (
        "power_on_while_shutting_down",
        {"boot-after": (SHUTTING_DOWN, []), "success": (SHUTTING_DOWN, []), "refuse": None},
    ),
    (SHUTTING_DOWN, PowerOFF): (
        "power_off_while_shutting_down",
        {"off": (OFF, [DOWN]), "off-after": (SHUTTING_DOWN, []), "refuse": None},
    ),
    (SHUTTING_DOWN, Reset): (
        "reset_while_shutting_down",
        {"boot": (BOOTING, [DOWN, STARTED]), "boot-after": (SHUTTING_DOWN, []), "refuse": None},
    ),
}
ALL_CELLS = [(state, request, DEFAULT_CHOICES, effect) for (state, request), effect in FIXED.items()] + [
    (state, request, PowerChoices(**{name: word}), effect)
    for (state, request), (name, effects) in CHOSEN.items()
    for word, effect in effects.items()
]
all_choices = st.builds(PowerChoices, **{name: st.sampled_from(list(cell.options)) for name, cell in CHOICES.items()})


def expected(state: Power, request: AnyRequest, choices: PowerChoices) -> Effect:
    if (state, request) in FIXED:
        return FIXED[state, request]
    name, effects = CHOSEN[state, request]
    return effects[getattr(choices, name)]


def machine_in(state: Power, choices: PowerChoices = DEFAULT_CHOICES, by: AnyRequest = SHUT_DOWN) -> PowerMachine:
    """A machine in ``state`` at NOW; a boot or shutdown started two seconds before."""
    started = OFF if state is BOOTING else ON if state is SHUTTING_DOWN else state
    machine = PowerMachine(lambda: BOOT, started, shutdown_seconds=lambda: SHUTDOWN, choices=choices)
    if state is BOOTING:
        machine.receive(PowerON, NOW - 2.0)
    if state is SHUTTING_DOWN:
        machine.receive(by, NOW - 2.0)
    assert machine.state is state
    return machine


def test_table_covers_every_state_and_request() -> None:
    assert TABLE.keys() == {(state, request) for state in Power for request in REQUESTS} == FIXED.keys() | CHOSEN.keys()


@pytest.mark.parametrize(
    ("state", "request_type", "choices", "effect"),
    ALL_CELLS,
    ids=lambda value: value.name if isinstance(value, (Power, PowerRequest, SystemRequest)) else None,
)
def test_each_table_cell_gives_its_change(
    state: Power, request_type: AnyRequest, choices: PowerChoices, effect: Effect
) -> None:
    machine = machine_in(state, choices)
    before = machine.deadline
    if effect is None:
        words = {OFF: "off", BOOTING: "booting", ON: "on", SHUTTING_DOWN: "shutting down"}[state]
        with pytest.raises(RequestRefused, match=f"{request_type.value} refused: the Mac is {words}"):
            machine.receive(request_type, NOW)
        assert (machine.state, machine.deadline) == (state, before)
        return
    after, events = effect
    assert machine.receive(request_type, NOW) == events
    assert machine.state is after
    if STARTED in events:
        assert machine.deadline == NOW + BOOT
    elif LEAVING in events:
        assert machine.deadline == NOW + SHUTDOWN
    else:
        assert machine.deadline == (before if after in (BOOTING, SHUTTING_DOWN) else None)


def test_a_boot_ends_at_its_deadline_and_not_before() -> None:
    machine = machine_in(OFF)
    machine.receive(PowerON, NOW)
    assert machine.advance(NOW + BOOT - 0.001) == []
    assert machine.state is BOOTING
    assert machine.advance(NOW + BOOT) == [UP]
    assert (machine.state, machine.deadline) == (ON, None)
    assert machine.advance(NOW + 10 * BOOT) == []


def test_power_off_during_boot_cancels_the_boot() -> None:
    machine = machine_in(BOOTING)
    machine.receive(PowerOFF, NOW)
    assert machine.advance(NOW + 10 * BOOT) == []
    assert (machine.state, machine.deadline) == (OFF, None)


def test_a_reset_during_boot_restarts_the_boot() -> None:
    machine = machine_in(BOOTING)
    machine.receive(Reset, NOW)
    assert machine.advance(NOW + BOOT - 1.0) == []
    assert machine.advance(NOW + BOOT) == [UP]


def test_request_after_the_boot_deadline_finds_the_mac_on() -> None:
    machine = machine_in(BOOTING)
    assert machine.receive(PowerON, NOW + BOOT) == [UP]
    machine = machine_in(BOOTING)
    assert machine.receive(Reset, NOW + BOOT) == [UP, DOWN, STARTED]
    assert machine.deadline == NOW + 2 * BOOT


def test_refusal_after_the_boot_deadline_keeps_the_boot_event() -> None:
    machine = machine_in(BOOTING, PowerChoices(power_on_while_on="refuse"))
    with pytest.raises(RequestRefused, match="the Mac is on"):
        machine.receive(PowerON, NOW + BOOT)
    assert machine.advance(NOW + BOOT) == [UP]


@pytest.mark.parametrize(
    ("by", "then", "choices", "booted"),
    [
        (SHUT_DOWN, None, DEFAULT_CHOICES, False),
        (RESTART, None, DEFAULT_CHOICES, True),
        (SHUT_DOWN, PowerON, DEFAULT_CHOICES, True),
        (RESTART, PowerON, DEFAULT_CHOICES, True),
        (SHUT_DOWN, PowerON, PowerChoices(power_on_while_shutting_down="success"), False),
        (RESTART, PowerON, PowerChoices(power_on_while_shutting_down="success"), True),
        (RESTART, PowerOFF, PowerChoices(power_off_while_shutting_down="off-after"), False),
        (SHUT_DOWN, Reset, PowerChoices(reset_while_shutting_down="boot-after"), True),
    ],
)
def test_shutdown_ends_off_or_booting(
    by: SystemRequest, then: PowerRequest | None, choices: PowerChoices, booted: bool
) -> None:
    machine = machine_in(SHUTTING_DOWN, choices, by)
    if then is not None:
        assert machine.receive(then, NOW) == []
    end = NOW - 2.0 + SHUTDOWN
    assert machine.deadline == end
    assert machine.advance(end - 0.001) == []
    assert machine.advance(end) == ([DOWN, STARTED] if booted else [DOWN])
    assert machine.advance(end + BOOT) == ([UP] if booted else [])
    assert machine.state is (ON if booted else OFF)


def test_a_restart_ends_after_its_shutdown_and_its_boot_in_one_advance() -> None:
    machine = machine_in(SHUTTING_DOWN, by=RESTART)
    assert machine.advance(NOW + SHUTDOWN + BOOT) == [DOWN, STARTED, UP]
    assert (machine.state, machine.deadline) == (ON, None)


def test_a_shutdown_after_a_cancelled_restart_does_not_boot() -> None:
    machine = machine_in(SHUTTING_DOWN, by=RESTART)
    machine.receive(PowerOFF, NOW)
    machine.receive(PowerON, NOW)
    machine.advance(NOW + BOOT)
    machine.receive(SHUT_DOWN, NOW + BOOT)
    assert machine.advance(NOW + 3 * BOOT) == [DOWN]


# Choices


def test_the_defaults_are_the_first_options_of_the_table() -> None:
    declared = {each.name: each.type for each in inspect.type_info(PowerChoices).fields}
    assert declared.keys() == CHOICES.keys()
    for name, cell in CHOICES.items():
        assert getattr(DEFAULT_CHOICES, name) == next(iter(cell.options)) == next(iter(dict(CHOSEN.values())[name]))
        assert set(cell.options) == dict(CHOSEN.values())[name].keys()
        assert set(declared[name].type.values) == cell.options.keys()


def test_documented_power_choices_start_with_the_default() -> None:
    document = (Path(__file__).parents[2] / "docs" / "modelled.md").read_text()
    rows = re.findall(r"^\|[^|]*\|[^|]*\| `(power_\w+|reset_\w+)` \|(.*)\|$", document, re.MULTILINE)
    assert {name: re.findall(r"`([^`]+)`", words) for name, words in rows} == {
        name: list(cell.options) for name, cell in CHOICES.items()
    }


def test_unknown_power_choice_raises_misuse_error() -> None:
    with pytest.raises(MisuseError, match="power_on_while_on: expected one of success, refuse, found 'boot'"):
        PowerChoices(power_on_while_on="boot")


# Any order


class AnyOrder(RuleBasedStateMachine):
    """Requests and time in any order, compared with the simplest model: a state, its end, and the next state."""

    @initialize(state=st.sampled_from([OFF, ON]), choices=all_choices)
    def begin(self, state: Power, choices: PowerChoices) -> None:
        self.now = NOW
        self.boot, self.shutdown = BOOT, SHUTDOWN
        self.choices = choices
        self.machine = PowerMachine(lambda: self.boot, state, shutdown_seconds=lambda: self.shutdown, choices=choices)
        self.state = state
        self.end: float | None = None
        self.boots_after = False

    def time_passes(self, seconds: float) -> list[PowerEvent]:
        self.now += seconds
        events = []
        if self.state is SHUTTING_DOWN and self.end is not None and self.now >= self.end:
            events.append(DOWN)
            self.state, self.end = (BOOTING, self.end + self.boot) if self.boots_after else (OFF, None)
            events += [STARTED] if self.state is BOOTING else []
        if self.state is BOOTING and self.end is not None and self.now >= self.end:
            self.state, self.end = ON, None
            events.append(UP)
        return events

    @rule(
        seconds=st.floats(0.0, 2 * BOOT),
        boot=st.floats(0.001, BOOT),
        shutdown=st.floats(0.001, SHUTDOWN),
        request_type=st.sampled_from(REQUESTS),
    )
    def receive(self, seconds: float, boot: float, shutdown: float, request_type: AnyRequest) -> None:
        self.boot, self.shutdown = boot, shutdown
        events = self.time_passes(seconds)
        effect = expected(self.state, request_type, self.choices)
        if effect is None:
            with pytest.raises(RequestRefused):
                self.machine.receive(request_type, self.now)
            assert self.machine.advance(self.now) == events
            return
        before = self.state
        self.state, more = effect
        if STARTED in more:
            self.end = self.now + boot
        elif LEAVING in more:
            self.end, self.boots_after = self.now + shutdown, request_type is RESTART
        elif self.state in (OFF, ON):
            self.end = None
        if before is self.state is SHUTTING_DOWN:
            word = getattr(self.choices, CHOSEN[before, request_type][0])
            self.boots_after = word == "boot-after" or (self.boots_after and word == "success")
        assert self.machine.receive(request_type, self.now) == events + more

    @rule(seconds=st.floats(0.0, 2 * BOOT))
    def advance(self, seconds: float) -> None:
        events = self.time_passes(seconds)
        assert self.machine.advance(self.now) == events

    @invariant()
    def the_machine_is_where_the_model_is(self) -> None:
        assert (self.machine.state, self.machine.deadline) == (self.state, self.end)
        assert (self.machine.deadline is not None) == (self.machine.state in (BOOTING, SHUTTING_DOWN))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = examples(25, explored=50)


@pytest.mark.parametrize(
    ("state", "after"),
    [(ON, BOOTING), (BOOTING, BOOTING), (OFF, OFF), (SHUTTING_DOWN, OFF)],
    ids=lambda each: each.name,
)
def test_only_macs_that_ran_boot_after_a_power_cut(state: Power, after: Power) -> None:
    machine = machine_in(state)
    assert machine.cut_mains(NOW) == ([] if state is OFF else [DOWN])
    assert (machine.state, machine.deadline, machine.cut) == (OFF, None, True)
    assert machine.cut_mains(NOW + 1.0) == []
    for request in REQUESTS:
        with pytest.raises(RequestRefused, match="no mains power"):
            machine.receive(request, NOW + 1.0)
    assert machine.advance(NOW + 10 * BOOT) == []
    assert machine.restore_mains(NOW + 100.0) == ([STARTED] if after is BOOTING else [])
    assert (machine.state, machine.cut) == (after, False)
    assert machine.deadline == (NOW + 100.0 + BOOT if after is BOOTING else None)
    assert machine.restore_mains(NOW + 101.0) == []


def test_mac_boots_after_a_power_cut_during_a_restart() -> None:
    machine = machine_in(ON)
    machine.receive(RESTART, NOW)
    assert machine.cut_mains(NOW + 1.0) == [DOWN]
    assert machine.restore_mains(NOW + 2.0) == [STARTED]


def test_mac_whose_plug_was_pulled_stays_off_and_can_be_powered_on() -> None:
    machine = machine_in(ON)
    machine.cut_mains(NOW)
    assert machine.restore_mains(NOW, boot=False) == []
    assert (machine.state, machine.cut) == (OFF, False)
    assert machine.receive(PowerRequest.ON, NOW + 1.0) == [STARTED]
