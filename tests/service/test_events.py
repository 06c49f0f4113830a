"""The events of a service: bounded, numbered, found by those who wait for them."""

from __future__ import annotations

from itertools import count, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from agent.service.events import MAX_NEAREST, WANTED, EventLog, TimedOut, wanted_properties
from agent.service.macs.waiting import until
from agent.service.types import Event, Wait, WaitState

LIMIT = 5
KINDS = ("added", "command", "answered", "power")

properties = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "udid": st.sampled_from(("", "A", "B")),
        "command_uuid": st.sampled_from(("", "1", "2")),
        "request_type": st.sampled_from(("", "ProfileList")),
        "status": st.sampled_from(("", "NotNow", "Acknowledged")),
    }
)
waits = st.builds(
    Wait,
    kind=st.none() | st.sampled_from(KINDS),
    udid=st.none() | st.sampled_from(("A", "B")),
    command_uuid=st.none() | st.sampled_from(("1", "2")),
    request_type=st.none() | st.just("ProfileList"),
    status=st.none() | st.sampled_from(("NotNow", "Acknowledged")),
    after=st.integers(0, 12),
    timeout=st.just(10.0),
)


def log(limit: int = LIMIT) -> EventLog:
    time = count(100)
    return EventLog(lambda: float(next(time)), limit)


def add(events: EventLog, values: dict[str, Any]) -> Event:
    values = dict(values)
    return events.add(values.pop("kind"), "Something happened.", **values)


def has(event: Event, wait: Wait) -> bool:
    return event.number > wait.after and all(getattr(wait, name) in (None, getattr(event, name)) for name in WANTED)


def outcome(waiting: Deferred[Event]) -> list[Any]:
    ends: list[Any] = []
    waiting.addBoth(ends.append)
    return ends


@given(st.lists(st.none() | properties, max_size=30))
def test_the_last_events_are_kept_and_numbers_only_grow(steps: list[dict[str, Any] | None]) -> None:
    events, kept, numbers = log(), list[Event](), list[int]()
    for step in steps:
        if step is None:
            events.clear()
            kept = []
        else:
            event = add(events, step)
            numbers.append(event.number)
            kept = [*kept, event][-LIMIT:]
        assert events.since(0) == kept
        assert events.last == (numbers[-1] if numbers else 0)
        assert events.first == (kept[0].number if kept else events.last + 1)
    assert numbers == [*range(1, len(numbers) + 1)]
    assert all(one.at < other.at for one, other in pairwise(kept))


@given(st.lists(properties, max_size=12), st.integers(-3, 15))
def test_since_has_the_later_ones_that_match(added: list[dict[str, Any]], after: int) -> None:
    events = log()
    everything = [add(events, each) for each in added][-LIMIT:]
    assert events.since(after) == [event for event in everything if event.number > after]
    assert events.since(after, lambda event: event.udid == "A") == [
        event for event in everything if event.number > after and event.udid == "A"
    ]


@given(st.lists(properties, max_size=12), st.lists(properties, max_size=12), waits)
def test_a_wait_finds_the_first_event_of_the_past_or_to_come(
    past: list[dict[str, Any]], future: list[dict[str, Any]], wait: Wait
) -> None:
    events, clock = log(), Clock()
    kept = [add(events, each) for each in past][-LIMIT:]
    ends = outcome(events.wait(wait, clock))
    later = [add(events, each) for each in future]
    wanted = [event for event in [*kept, *later] if has(event, wait)]
    assert ends == wanted[:1]
    if wanted:
        assert clock.getDelayedCalls() == []
    else:
        clock.pump([wait.timeout, 0.0])
        assert ends[0].check(TimedOut)
    assert clock.getDelayedCalls() == []
    add(events, {"kind": "added"})  # nobody waits any more
    assert len(ends) == 1


@given(st.lists(properties, max_size=12), waits)
def test_a_wait_that_times_out_has_the_nearest_events(added: list[dict[str, Any]], wait: Wait) -> None:
    events, clock = log(), Clock()
    kept = [add(events, each) for each in added][-LIMIT:]
    ends = outcome(events.wait(wait, clock))
    clock.pump([wait.timeout, 0.0])
    if isinstance(ends[0], Event):
        return
    wanted = wanted_properties(wait)

    def shared(event: Event) -> int:
        return sum(getattr(event, name) == value for name, value in wanted.items())

    nearest = ends[0].value.nearest
    near = [event for event in kept if event.number > wait.after and shared(event)]
    assert len(nearest) == min(len(near), MAX_NEAREST)
    assert all((shared(one), one.number) > (shared(other), other.number) for one, other in pairwise(nearest))
    rest = [event for event in near if event not in nearest]
    assert all(shared(event) <= shared(nearest[-1]) for event in rest)


def test_error_of_a_wait_has_the_condition_and_the_nearest_events() -> None:
    events, clock = log(), Clock()
    events.add("answered", "It answered NotNow.", udid="A", status="NotNow")
    ends = outcome(events.wait(Wait(kind="answered", udid="A", status="Acknowledged", timeout=2), clock))
    clock.advance(1.9)
    assert ends == []
    clock.pump([0.2, 0.0])
    assert str(ends[0].value) == (
        "Expected an event with kind answered, udid A, status Acknowledged after number 0 within 2 s, found none; the "
        "nearest of 1 is number 1: It answered NotNow. Check what the Mac was asked, or wait longer."
    )


def test_an_event_that_comes_in_the_turn_of_the_time_limit_counts() -> None:
    events, clock = log(), Clock()
    ends = outcome(events.wait(Wait(timeout=1), clock))
    clock.callLater(1, events.add, "added", "It came.")  # after the time limit's own timer
    clock.advance(1)
    assert ends == events.since(0)
    assert len(ends) == 1
    assert clock.getDelayedCalls() == []


def test_without_time_only_the_past_counts() -> None:
    events, clock = log(), Clock()
    assert outcome(events.wait(Wait(timeout=0), clock))[0].check(TimedOut)
    event = events.add("added", "Something happened.")
    assert outcome(events.wait(Wait(timeout=0), clock)) == [event]
    assert clock.getDelayedCalls() == []


def test_a_cancelled_wait_leaves_nothing() -> None:
    events, clock = log(), Clock()
    waiting = events.wait(Wait(timeout=5), clock)
    ends = outcome(waiting)
    waiting.cancel()
    assert ends[0].check(CancelledError)
    assert clock.getDelayedCalls() == []
    events.add("added", "Nobody waits for it.")
    assert len(ends) == 1


def test_subscribers_get_each_event_in_order_until_they_leave() -> None:
    events = log()
    first, second = list[int](), list[int]()

    def answer(event: Event) -> None:
        first.append(event.number)
        if event.kind == "command":
            events.add("answered", "An answer.")

    events.subscribe(answer)
    leave = events.subscribe(lambda event: second.append(event.number))
    events.add("command", "A command.")
    assert first == second == [1, 2]
    leave()
    leave()
    events.add("added", "Another.")
    assert (first, second) == ([1, 2, 3], [1, 2])


def test_a_subscriber_that_another_one_removes_gets_nothing_more() -> None:
    events = log()
    got: list[int] = []
    events.subscribe(lambda _event: leave())
    leave = events.subscribe(lambda event: got.append(event.number))
    events.add("added", "An event.")
    assert got == []


def test_an_error_of_a_subscriber_does_not_stop_later_events() -> None:
    events = log()
    got: list[int] = []
    leave = events.subscribe(lambda event: 1 / (event.number - 1))
    events.subscribe(lambda event: got.append(event.number))
    with pytest.raises(ZeroDivisionError):
        events.add("added", "An event.")
    leave()
    events.add("added", "Another.")
    assert got == [2]


def test_breaches_are_counted_beyond_the_events_that_are_kept() -> None:
    events = log(limit=2)
    for kind in ("protocol_error", "added", "added", "protocol_error"):
        events.add(kind, "…")
    assert (events.protocol_errors, len(events.since(0, lambda each: each.kind == "protocol_error"))) == (2, 1)
    events.clear()
    assert events.protocol_errors == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_state_is_looked_at_once_more_after_the_end_of_its_wait(there: bool) -> None:
    clock, mac = Clock(), SimpleNamespace(name="a", power="on")
    wanted = WaitState(power="off", timeout=2)
    waiting: Any = Deferred.fromCoroutine(until(clock, lambda: mac, wanted, log(), "A"))  # type: ignore[arg-type]
    ends = outcome(waiting)
    mac.power = "off" if there else "booting"
    clock.advance(10.0)  # a loop that was blocked looks next when the time is over
    clock.advance(0.0)
    [end] = ends
    assert end is mac if there else "found power booting" in str(end.value)
