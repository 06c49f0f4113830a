"""Events as server-sent events: the past, what happens, after a lost connection, to clients that do not read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from control_clients import Party, with_server
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from agent.service.api.streams import HEARTBEAT_SECONDS, EventStream
from agent.service.events import EventLog
from agent.service.types import Event

KEPT = 100  # events that the fake service keeps


def numbers(octets: bytes) -> list[int]:
    """The numbers of the events in a stream; each is the same in the id and the data."""
    found = []
    for block in octets.split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in block.replace(b"\r\n", b"\n").split(b"\n") if b": " in line)
        if b"data" in fields:
            event = msgspec.json.decode(fields[b"data"], type=Event)
            assert (fields[b"id"], fields[b"event"]) == (b"%d" % event.number, event.kind.encode())
            found.append(event.number)
    return found


def test_a_client_gets_the_past_and_what_happens_then(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("GET", "/v1/events?after=1")
        head, _, _ = (await client.until(b"id: 3")).partition(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"text/event-stream" in head
        await party.ask("POST", "/v1/macs/1/enroll")
        octets = await client.until(b"id: 4")
        assert numbers(octets) == [2, 3, 4]
        assert b"no longer kept" not in octets

    with_server(run_in_reactor, test)


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v1/events", [], [4, 5, 6]),
        ("/v1/events?after=0", [], [1, 2, 3, 4, 5, 6]),
        ("/v1/events?after=-1", [], [1, 2, 3, 4, 5, 6]),
        ("/v1/events?after=2", [], [3, 4, 5, 6]),
        ("/v1/events?after=0", ["Last-Event-ID: 3"], [4, 5, 6]),
        ("/v1/events", ["Last-Event-ID: 1"], [2, 3, 4, 5, 6]),
        ("/v1/events?after=1000", [], [4, 5, 6]),
        ("/v1/events?mac=SERIAL1&after=0", [], [2, 5]),
        ("/v1/events?kind=enrolled&after=0", [], [4, 5, 6]),
        ("/v1/events?kind=enrolled&mac=1", ["Last-Event-ID: 2"], [5]),
    ],
)
def test_a_client_chooses_what_it_follows(run_in_reactor, path, headers, expected) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("GET", path, *headers)
        await client.until(b"retry: ")
        for number in range(3):
            await party.ask("POST", f"/v1/macs/{number}/enroll")
        assert numbers(await client.until(b"\ndata: ", len(expected))) == expected

    with_server(run_in_reactor, test)


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "9" * 30])
def test_a_last_event_id_that_is_no_number_is_refused(run_in_reactor, value) -> None:
    async def test(party: Party) -> None:
        response = await party.ask("GET", "/v1/events", headers={"Last-Event-ID": value})
        assert (response.status_code, "Last-Event-ID" in response.json()["detail"]) == (400, True)

    with_server(run_in_reactor, test)


def test_client_gets_the_number_of_events_that_it_missed(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        for _ in range(KEPT):
            party.service.events.add("network", "Something happened.")
        client = await party.raw()
        client.send("GET", "/v1/events", "Last-Event-ID: 1")
        octets = await client.until(b"id: %d\n" % (KEPT + 3))
        assert b": 2 earlier events are no longer kept\n" in octets
        assert numbers(octets) == [*range(4, KEPT + 4)]

    with_server(run_in_reactor, test)


def test_a_client_that_does_not_read_is_dropped_and_the_others_go_on(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        lazy, eager = await party.raw(), await party.raw()
        for client in (lazy, eager):
            client.send("GET", "/v1/events")
            await client.until(b"retry: ")
        lazy.transport.pauseProducing()
        events, text = party.service.events, "x" * 100_000
        before = events.last
        # Each event is longer than what the kernel takes at last; the eager client has each before the next is added.
        dropped = 0
        for number in range(1, 50 * KEPT):
            events.add("network", text)
            await eager.until(b"id: %d\n" % (before + number))
            eager.octets = b""
            if len(events._subscribers) == 1:
                dropped = number
                break
        assert dropped > KEPT
        lazy.transport.resumeProducing()
        octets = await lazy.closed
        assert b"id: %d\n" % events.last not in octets
        events.add("network", "The last one.")
        await eager.until(b"The last one.")

    with_server(run_in_reactor, test)


def test_a_client_that_leaves_is_forgotten(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("GET", "/v1/events")
        await client.until(b"retry: ")
        client.transport.loseConnection()
        await client.closed
        await party.ask("GET", "/v1")
        assert party.service.events._subscribers == []

    with_server(run_in_reactor, test)


def test_a_reset_does_not_end_a_stream(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("GET", "/v1/events?after=0")
        await client.until(b"id: 3\n")
        await party.ask("POST", "/v1/reset")
        assert numbers(await client.until(b"id: 4\n")) == [1, 2, 3, 4]

    with_server(run_in_reactor, test)


# A stream by itself


class Request:
    """Collects what is written. ``full`` is the number of writes until the transport's buffer is full."""

    def __init__(self, full: int = 10**6) -> None:
        self.octets = b""
        self.full = full
        self.aborted = False
        self.transport = self
        self.producer: Any = None

    def setHeader(self, name: bytes, value: bytes) -> None:
        pass

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def write(self, octets: bytes) -> None:
        assert self.full > 0, "written although the buffer is full"
        self.octets += octets
        self.full -= 1
        if self.full == 0:
            self.producer.pauseProducing()

    def resume(self, full: int = 10**6) -> None:
        self.full = full
        self.producer.resumeProducing()

    def abortConnection(self) -> None:
        self.aborted = True


def started(request: Request, log: EventLog, clock: Clock, after: int = 0) -> Any:
    return EventStream(log, lambda _event: True, after, clock).send_to(request)


def new_log(events: int = 0, kept: int = 5) -> EventLog:
    log = EventLog(lambda: 0.0, kept)
    for _ in range(events):
        log.add("network", "Something happened.")
    return log


def test_a_silent_stream_has_a_comment_now_and_then() -> None:
    request, clock = Request(), Clock()
    ended = started(request, new_log(), clock)
    before = request.octets
    clock.pump([HEARTBEAT_SECONDS, HEARTBEAT_SECONDS])
    assert request.octets == before + b":\n\n" * 2
    request.producer.pauseProducing()
    clock.advance(HEARTBEAT_SECONDS)
    assert request.octets == before + b":\n\n" * 2
    ended.addErrback(lambda failure: failure.trap(CancelledError))
    ended.cancel()
    assert clock.getDelayedCalls() == []


@given(st.lists(st.integers(1, 3), max_size=20), st.integers(0, 5))
def test_a_client_that_reads_slowly_gets_each_event_once_in_order(steps: list[int], past: int) -> None:
    """Each step is the number of writes until the buffer is full again; an event comes before each."""
    log, request = new_log(past, kept=100), Request(full=1)
    started(request, log, Clock()).addErrback(lambda _: None)
    for writes in steps:
        log.add("network", "Something happened.")
        request.resume(writes)
    request.resume()
    assert numbers(request.octets) == [*range(1, log.last + 1)]
    assert not request.aborted


def test_only_a_client_that_is_behind_by_more_than_is_kept_is_dropped() -> None:
    log, request, clock = new_log(2), Request(full=2), Clock()
    started(request, log, clock).addErrback(lambda _: None)
    assert numbers(request.octets) == [1]
    for _ in range(4):
        log.add("network", "Something happened.")
    assert (log.first, request.aborted) == (2, False)  # the next one is still there
    log.add("network", "Something happened.")
    assert request.aborted
    assert clock.getDelayedCalls() == []
    log.add("network", "Something happened.")
    assert numbers(request.octets) == [1]


def test_events_that_are_cleared_while_a_client_does_not_read_are_left_out() -> None:
    log, request = new_log(3), Request(full=2)
    started(request, log, Clock()).addErrback(lambda _: None)
    log.clear()
    log.add("reset", "Everything was reset.")
    assert not request.aborted
    request.resume()
    assert numbers(request.octets) == [1, 4]
