"""Pushes routed to several endpoints: the same answers as from one broker, and 503 where an endpoint is silent."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from apns_gateways import injecting, push_rule
from apns_parties import NOW, PROVIDER, SettableMacs, fields, payload, token
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.framing import FrameReader
from agent.load.control.messages import encode, next_message
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.endpoint import PushEndpoint
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock
from agent.push.broker import Answer, Presence, PushBroker, PushOutcome, Reply
from agent.push.counts import merge_push_counts
from agent.push.delays import PowerSaving
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import Provider, PushPolicy
from agent.push.store import Notification
from agent.push.wire import PushWireError, RoutedAnswer, RoutedPush

MACS = 6
SHARD = 3  # Macs of one
PATIENCE = 5.0
POPULATION = Population("router", MACS)
RULES = (
    push_rule("store", macs=("1-3",), after=10.0, until=60.0),
    push_rule("refuse", times=2),
    push_rule("drop", probability=0.2),
    push_rule("refuse", reason="TooManyRequests", probability=0.3, macs=("0-4",)),
    push_rule("refuse", reason="InternalServerError", times=1, macs=("4",)),
    push_rule("throttle", limit=4, seconds=60.0),
)


class Rows:
    """A row of chances for each Mac."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._rows: dict[int, random.Random] = {}

    def __call__(self, index: int) -> float:
        return self._rows.setdefault(index, random.Random(f"{self._purpose} {index}")).random()


MessageT = TypeVar("MessageT", RoutedPush, RoutedAnswer)


def over_the_link(message: MessageT) -> MessageT:
    """The message as the other end of the control link gets it."""
    reader = FrameReader(longest=1 << 20)
    reader.receive(encode(message))
    received = next_message(reader)
    assert isinstance(received, type(message))
    return received


class Owned(SettableMacs):
    """Some of the Macs; the others are unknown."""

    def __init__(self, indexes: range) -> None:
        super().__init__(MACS)
        self._indexes = indexes

    def find(self, token: bytes) -> int | None:
        """Whose token it is."""
        index = super().find(token)
        return index if index in self._indexes else None


def run_clock(clock: Clock) -> RunClock:
    """A run's clock that shows NOW when ``clock`` is at 0."""
    return RunClock(clock, wall_clock=lambda: NOW + clock.seconds())


class EndpointOfMacs:
    """An endpoint and what it delivered."""

    def __init__(self, clock: Clock, indexes: range, rules: tuple[Rule, ...], **settings: Any) -> None:
        self.macs = Owned(indexes)
        self.reached: list[Notification] = []
        faults = Faults()
        for rule in rules:
            faults.add(rule, clock.seconds())
        inject = injecting(faults, POPULATION.__getitem__, clock.seconds)
        broker = PushBroker(self.macs, inject=inject, chance=Rows("delay"), **settings)
        self.push_endpoint = PushEndpoint(clock, broker, self._reach, run_clock(clock))  # type: ignore[arg-type]
        self.push_endpoint.open()

    def _reach(self, notification: Notification) -> bool:
        self.reached.append(notification)
        return True


class Whole:
    """One broker for all Macs, without a router."""

    def __init__(self, clock: Clock, rules: tuple[Rule, ...] = (), **settings: Any) -> None:
        self.push_endpoints = [EndpointOfMacs(clock, range(MACS), rules, **settings)]
        self._now = run_clock(clock)

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Decide on one request."""
        push_endpoint = self.push_endpoints[0].push_endpoint
        reply(push_endpoint.broker.receive(fields, body, provider, self._now()))
        push_endpoint.open()  # sets the timer for what the broker has to deliver

    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return merge_push_counts(each.push_endpoint.counts for each in self.push_endpoints)


class Split(Whole):
    """A router and two endpoints, as if in other processes."""

    def __init__(self, clock: Clock, rules: tuple[Rule, ...] = (), **settings: Any) -> None:
        macs = SettableMacs(MACS)
        macs.index_of_token = macs.find  # type: ignore[attr-defined]
        self.sent: list[tuple[int, RoutedPush]] = []
        self.hold = False
        self.router = PushRouter(
            clock,  # type: ignore[arg-type]
            macs,  # type: ignore[arg-type]
            lambda index: index // SHARD,
            self._send,
            run_clock(clock),
            PushBehaviour(strict=settings.get("policy", PushPolicy()).strict),
            patience=PATIENCE,
            most=50,
        )
        self.push_endpoints = [
            EndpointOfMacs(clock, range(first, first + SHARD), rules, **settings) for first in range(0, MACS, SHARD)
        ]

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Route one request."""
        self.router.route(fields, body, provider, reply)

    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return merge_push_counts([super().counts(), self.router.counts])

    def advance(self, number: int = 0) -> None:
        """One of the requests that are held reaches its endpoint, and the answer comes back, both as frames."""
        shard, push = self.sent.pop(number)
        answer = self.push_endpoints[shard].push_endpoint.receive(over_the_link(push))
        self.router.answered(shard, over_the_link(answer))

    def _send(self, shard: int, push: RoutedPush) -> None:
        self.sent.append((shard, push))
        if not self.hold:
            self.advance()


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["GET", "POST"]),
        "path": st.sampled_from(["/", "/3/device/", "/3/device/abc", f"/3/device/{token(0).hex().upper()}"]),
        "apns_topic": st.sampled_from(["com.apple.mgmt.other", ""]),
        "apns_push_type": st.sampled_from(["mdm", "alert", "nonsense"]),
        "apns_expiration": st.sampled_from(["0", "1", str(int(NOW) + 30), "soon"]),
        "apns_priority": st.sampled_from(["10", "5", "1", "0"]),
    },
)
PUSHES = st.tuples(
    st.just("push"),
    st.integers(0, MACS),  # one more than there are
    st.just({}) | HEADERS,
    st.sampled_from([PROVIDER, PROVIDER, PROVIDER, Provider(), Provider("com.apple.mgmt.b", certified=True)]),
)
STEPS = st.lists(
    PUSHES
    | st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 10.0, 40.0]))
    | st.tuples(st.just("stands"), st.integers(0, MACS - 1), st.sampled_from(list(Presence))),
    max_size=40,
)


class Party:
    """What happens to a fleet behind a router, as an outsider sees it."""

    def __init__(self, make: Callable[..., Whole], **settings: Any) -> None:
        self.clock = Clock()
        self.fleet = make(self.clock, **settings)
        self.outcomes: list[PushOutcome] = []

    def step(self, number: int, what: str, *arguments: Any) -> None:
        """One thing happens."""
        if what == "push":
            index, headers, provider = arguments
            header = fields(index, apns_id=str(uuid.UUID(int=number)), **headers)
            self.fleet.route(header, payload(index), provider, self.outcomes.append)
        elif what == "wait":
            self.clock.advance(arguments[0])
        else:
            self._stands(*arguments)
        self.clock.advance(0.0)  # what is due is delivered a turn later

    def reached(self) -> dict[int, list[Notification]]:
        """What each Mac got, in order."""
        found = [notification for each in self.fleet.push_endpoints for notification in each.reached]
        return {index: [each for each in found if each.index == index] for index in range(MACS)}

    def _stands(self, index: int, presence: Presence) -> None:
        for each in self.fleet.push_endpoints:
            each.macs.standing[index] = presence
            if presence is Presence.LEFT:
                each.push_endpoint.left(index)
            elif presence is Presence.ONLINE:
                each.push_endpoint.came_back(index)


@given(STEPS, st.booleans(), st.sampled_from([0.0, 30.0]), st.booleans())
def test_two_endpoints_answer_like_one_broker(steps: list[Any], strict: bool, saving: float, delayed: bool) -> None:
    settings: dict[str, Any] = {
        "rules": RULES, "policy": PushPolicy(strict=strict), "saving": PowerSaving(saving),
    }  # fmt: skip
    if delayed:
        settings["delay"] = lambda chance: 20.0 * chance
    whole, split = Party(Whole, **settings), Party(Split, **settings)
    for number, step in enumerate(steps):
        whole.step(number, *step)
        split.step(number, *step)
        assert split.outcomes == whole.outcomes
        assert split.reached() == whole.reached()
    assert split.fleet.counts() == whole.fleet.counts()


@given(STEPS, st.data())
def test_each_push_has_exactly_one_answer_despite_late_endpoints(steps: list[Any], data: st.DataObject) -> None:
    split = Party(Split, rules=RULES)
    assert isinstance(split.fleet, Split)
    fleet, pushes = split.fleet, 0
    fleet.hold = True
    for number, step in enumerate(steps):
        split.step(number, *step)
        pushes += step[0] == "push"
        for _ in range(data.draw(st.integers(0, 2))):
            if fleet.sent:
                fleet.advance(data.draw(st.integers(0, len(fleet.sent) - 1)))
        assert len(split.outcomes) + fleet.router.outstanding == pushes
    split.clock.advance(PATIENCE)
    assert fleet.router.outstanding == 0
    while fleet.sent:
        fleet.advance()  # too late
    assert len(split.outcomes) == pushes


def held() -> tuple[Clock, Split, list[PushOutcome]]:
    """A router whose endpoints get nothing until the test releases it, and three pushes to Macs 0, 1 and 5."""
    clock, outcomes = Clock(), []
    split = Split(clock)
    split.hold = True
    for index in (0, 1, 5):
        split.route(fields(index, apns_id=ID), payload(index), PROVIDER, outcomes.append)
    return clock, split, outcomes


ID = "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D"
UNAVAILABLE = Answer(503, ID, b'{"reason":"ServiceUnavailable"}')


def own(split: Split) -> dict[str, int]:
    """What the gateway turned away for causes of its own; nothing stands as refused for the provider's or a rule's."""
    counts = split.counts()
    assert counts["refused"] == {}
    return {cause: count for cause, count in counts["own"].items() if count}


def test_silent_endpoint_gives_503_and_its_late_answer_is_ignored() -> None:
    clock, split, outcomes = held()
    clock.advance(PATIENCE - 1.0)
    split.advance(1)
    assert outcomes == [Answer(200, ID)]
    clock.advance(1.0)
    assert outcomes[1:] == [UNAVAILABLE, UNAVAILABLE]
    while split.sent:
        split.advance()
    assert len(outcomes) == 3
    assert own(split) == {"overloaded": 2}
    clock.advance(0.0)
    assert clock.getDelayedCalls() == []


def test_lost_shard_gives_503_for_open_and_later_pushes() -> None:
    _clock, split, outcomes = held()
    split.router.shard_gone(0)
    assert outcomes == [UNAVAILABLE, UNAVAILABLE]
    split.route(fields(2, apns_id=ID), payload(2), PROVIDER, outcomes.append)
    assert outcomes == [UNAVAILABLE] * 3
    assert own(split) == {"worker_lost": 3}
    split.advance(2)  # of the other shard
    assert outcomes[3:] == [Answer(200, ID)]
    split.route(fields(MACS), payload(), PROVIDER, outcomes.append)
    assert isinstance(outcomes[4], Answer)
    assert outcomes[4].status == 400  # no Mac's token


def test_the_pushes_of_a_shard_that_ended_with_the_run_are_not_those_of_a_lost_one() -> None:
    _clock, split, outcomes = held()
    split.router.shard_gone(0, OwnCause.SHUTDOWN)
    split.route(fields(2, apns_id=ID), payload(2), PROVIDER, outcomes.append)
    assert outcomes == [UNAVAILABLE] * 3
    assert own(split) == {"shutdown": 3}


def test_closing_the_router_answers_every_waiting_push() -> None:
    clock, split, outcomes = held()
    split.router.close()
    assert outcomes == [UNAVAILABLE] * 3
    split.route(fields(2, apns_id=ID), payload(2), PROVIDER, outcomes.append)
    assert outcomes == [UNAVAILABLE] * 4
    assert own(split) == {"shutdown": 4}
    assert clock.getDelayedCalls() == []


def test_number_of_waiting_pushes_is_limited() -> None:
    _clock, split, outcomes = held()
    for _ in range(50):
        split.route(fields(0, apns_id=ID), payload(), PROVIDER, outcomes.append)
    assert outcomes == [UNAVAILABLE] * 3
    assert own(split) == {"overloaded": 3}
    split.advance()
    split.route(fields(0, apns_id=ID), payload(), PROVIDER, outcomes.append)
    assert outcomes[3:] == [Answer(200, ID)]


def test_a_refusal_of_our_own_stays_the_cause_though_a_later_push_is_accepted() -> None:
    clock, split, _outcomes = held()
    date = run_clock(clock)()
    asked = split.router.own_refusal
    split.advance(1)
    clock.advance(PATIENCE)
    refused = [index for index in (0, 1, 5) if asked(index, date) is OwnCause.OVERLOADED]
    assert len(refused) == 2
    assert asked(refused[0], date + PATIENCE + 1.0) is None, "that was before"
    split.sent.clear()
    outcomes: list[PushOutcome] = []
    split.route(fields(refused[0]), payload(refused[0]), PROVIDER, outcomes.append)
    split.advance()
    assert [isinstance(outcome, Answer) and outcome.status for outcome in outcomes] == [200]
    assert asked(refused[0], date) is OwnCause.OVERLOADED, "the accepted push came later than it could have"
    split.router.close()
    split.route(fields(refused[0]), payload(refused[0]), PROVIDER, lambda _outcome: None)
    assert asked(refused[0], date) is OwnCause.SHUTDOWN


def test_a_push_without_an_answer_is_late_by_our_fault() -> None:
    clock, split, outcomes = held()
    date = run_clock(clock)()
    assert [split.router.own_refusal(index, date) for index in (0, 1, 5)] == [None] * 3, "they have just arrived"
    clock.advance(1.0)
    assert [split.router.own_refusal(index, date) for index in (0, 1, 5)] == [OwnCause.OVERLOADED] * 3
    while split.sent:
        split.advance()
    assert len(outcomes) == 3
    assert [split.router.own_refusal(index, date) for index in (0, 1, 5)] == [None] * 3


def test_a_push_that_did_not_arrive_after_we_closed_a_connection_is_missing_by_our_fault() -> None:
    clock, split, _outcomes = held()
    while split.sent:
        split.advance()
    date = run_clock(clock)()
    clock.advance(1.0)
    assert split.router.own_refusal(2, date) is None, "no connection was closed: the server did not push"
    split.router.turned_away()
    assert split.router.own_refusal(2, date) is OwnCause.CONNECTIONS
    assert split.router.own_refusal(2, date + 2.0) is None, "that was before"
    split.route(fields(2), payload(2), PROVIDER, lambda _outcome: None)
    split.advance()
    assert split.router.own_refusal(2, date) is None, "its push arrived"


def test_a_request_that_a_closing_connection_cuts_off_is_missing_by_our_fault() -> None:
    clock, split, _outcomes = held()
    date = run_clock(clock)()
    while split.sent:
        split.advance()
    split.router.refuse(fields(2), PushRefused(Reason.SHUTDOWN, own=OwnCause.SHUTDOWN))
    split.router.refuse(fields(3), PushRefused(Reason.PAYLOAD_TOO_LARGE))
    assert [split.router.own_refusal(index, date) for index in (2, 3)] == [OwnCause.SHUTDOWN, None]


@pytest.mark.parametrize(
    ("shard", "number", "words"),
    [(0, 4, "the last one sent is 3"), (1, 1, "went to shard 0")],
)
def test_answer_to_an_unknown_push_is_refused(shard: int, number: int, words: str) -> None:
    _clock, split, outcomes = held()
    with pytest.raises(PushWireError, match=words):
        split.router.answered(shard, RoutedAnswer.of(number, Answer(200, "")))
    assert outcomes == []


def test_a_closed_endpoint_has_no_timer() -> None:
    clock = Clock()
    push_endpoint = EndpointOfMacs(clock, range(MACS), (push_rule("delay", seconds=5.0),))
    push_endpoint.push_endpoint.receive(RoutedPush(1, NOW, fields(), payload(), PROVIDER))
    assert len(clock.getDelayedCalls()) == 1
    push_endpoint.push_endpoint.close()
    push_endpoint.push_endpoint.receive(RoutedPush(1, NOW, fields(), payload(), PROVIDER))
    assert clock.getDelayedCalls() == []
