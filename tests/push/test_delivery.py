"""The delivery of accepted pushes: immediate, delayed, replaced, expired, discarded; in any order of events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from apns_parties import NOW, PROVIDER, TOPIC, SettableMacs, fields, payload
from examples import examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.push.broker import Answer, Injected, Presence, PushBroker
from agent.push.delays import PowerSaving
from agent.push.reasons import Reason
from agent.push.requests import Provider

DAY = 24 * 3600.0
MACS = 3


def push(broker: PushBroker, now: float = NOW, index: int = 0, magic: str = "", **headers: str) -> str:
    """Push, and return the apns-id."""
    body = b'{"mdm":"%s"}' % magic.encode() if magic else payload(index)
    answer = broker.receive(fields(index, **headers), body, PROVIDER, now)
    assert answer.status == 200, answer
    return answer.apns_id


def ids(broker: PushBroker) -> list[str]:
    """The notifications to deliver."""
    return [notification.apns_id for notification in broker.take()]


def test_push_is_delivered_to_an_online_mac() -> None:
    broker = PushBroker(SettableMacs(2))
    push(broker, index=1)
    (notification,) = broker.take()
    assert (notification.index, notification.topic, notification.push_magic) == (1, TOPIC, "magic-1")
    assert broker.waiting == 0
    assert broker.deadline is None


@pytest.mark.parametrize(
    ("expiration", "later", "arrives"),
    [
        (None, DAY - 1, True),
        (None, DAY + 1, False),
        ("0", 0.0, False),
        (str(int(NOW) - 5), 0.0, False),
        (str(int(NOW) + 100), 99.0, True),
        (str(int(NOW) + 100), 100.0, False),
        (str(int(NOW) + 10**9), 30 * DAY - 1, True),
        (str(int(NOW) + 10**9), 30 * DAY + 1, False),
    ],
)
def test_expiration_limits_the_storage_for_an_offline_mac(expiration: str | None, later: float, arrives: bool) -> None:
    macs = SettableMacs()
    macs.standing[0] = Presence.OFFLINE
    broker = PushBroker(macs)
    sent = push(broker, **({} if expiration is None else {"apns_expiration": expiration}))
    broker.advance(NOW + later)
    macs.standing[0] = Presence.ONLINE
    broker.came_back(0, NOW + later)
    assert ids(broker) == ([sent] if arrives else [])
    assert broker.waiting == 0


def test_push_with_expiration_0_is_delivered_to_an_online_mac() -> None:
    broker = PushBroker(SettableMacs())
    sent = push(broker, apns_expiration="0")
    assert ids(broker) == [sent]


def test_stored_push_is_discarded_after_unenrollment_or_topic_change() -> None:
    macs = SettableMacs(2)
    macs.standing = dict.fromkeys(range(2), Presence.OFFLINE)
    broker = PushBroker(macs)
    push(broker, index=0)
    push(broker, index=1)
    broker.left(0)
    macs.standing = dict.fromkeys(range(2), Presence.ONLINE)
    macs.topics[1] = TOPIC + ".new"
    broker.came_back(0, NOW)
    broker.came_back(1, NOW)
    assert ids(broker) == []
    assert broker.counts.discarded == 2
    assert broker.waiting == 0


def test_newest_push_of_each_topic_is_stored_during_reenrollment() -> None:
    macs = SettableMacs()
    macs.standing[0], macs.topics[0] = Presence.OFFLINE, ""
    broker = PushBroker(macs)
    push(broker)
    broker.receive(fields(), payload(), Provider(TOPIC + "2", certified=True), NOW)
    newest = push(broker)
    assert broker.waiting == 2
    macs.standing[0], macs.topics[0] = Presence.ONLINE, TOPIC
    broker.came_back(0, NOW)
    assert ids(broker) == [newest]
    assert (broker.counts.stored, broker.counts.replaced, broker.counts.discarded) == (3, 1, 1)


def test_power_saving_delays_priority_5_and_1_and_not_10() -> None:
    broker = PushBroker(SettableMacs(3), saving=PowerSaving(100.0))
    sent = [push(broker, index=index, apns_priority=str(priority)) for index, priority in enumerate((10, 5, 1))]
    assert ids(broker) == sent[:1]
    arrivals = {}
    while broker.deadline is not None and broker.waiting:
        now = broker.deadline
        broker.advance(now)
        arrivals.update(dict.fromkeys(ids(broker), now))
    assert 0 < arrivals[sent[1]] - NOW <= 100
    assert 0 < arrivals[sent[2]] - NOW <= 400
    assert broker.counts.expired == 0


def test_priority_10_push_replaces_a_delayed_one() -> None:
    broker = PushBroker(SettableMacs(), saving=PowerSaving(100.0))
    push(broker, apns_priority="5")
    urgent = push(broker)
    assert ids(broker) == [urgent]
    broker.advance(NOW + 1000.0)
    assert ids(broker) == []
    assert broker.counts.replaced == 1


def test_each_push_has_its_delay_and_the_mac_is_looked_up_after_it() -> None:
    macs, chances = SettableMacs(2), iter((0.9, 0.1))
    broker = PushBroker(macs, delay=lambda chance: 10.0 * chance, chance=lambda _index: next(chances))
    slow, quick = push(broker, index=0), push(broker, index=1)
    assert broker.deadline == pytest.approx(NOW + 1.0)
    broker.advance(NOW + 1.5)
    assert ids(broker) == [quick]
    macs.standing[0] = Presence.OFFLINE
    broker.advance(NOW + 9.5)
    assert ids(broker) == []
    macs.standing[0] = Presence.ONLINE
    broker.came_back(0, NOW + 20.0)
    assert ids(broker) == [slow]


# Injected faults


@pytest.mark.parametrize(
    ("injected", "status", "counts"),
    [
        (Injected(), 200, {"accepted": 1}),
        (Injected(reason=Reason.TOO_MANY_REQUESTS), 429, {"refused": {"TooManyRequests": 1}}),
        (Injected(broken=True), None, {"broken": 1}),
        (Injected(lost=True), 200, {"accepted": 1, "discarded": 1}),
    ],
)
def test_an_injected_fault_decides_on_the_push(injected: Injected, status: int | None, counts: dict[str, Any]) -> None:
    broker = PushBroker(SettableMacs(), inject=lambda _index: injected)
    outcome = broker.receive(fields(), payload(), PROVIDER, NOW)
    assert (outcome.status if isinstance(outcome, Answer) else None) == status
    assert broker.counts.as_json() == PushBroker(SettableMacs()).counts.as_json() | counts
    assert len(broker.take()) == (injected == Injected())


def test_an_injected_410_has_the_time_of_its_push() -> None:
    broker = PushBroker(SettableMacs(), inject=lambda _index: Injected(reason=Reason.EXPIRED_TOKEN))
    answer = broker.receive(fields(), payload(), PROVIDER, NOW)
    assert isinstance(answer, Answer)
    assert json.loads(answer.body) == {"reason": "ExpiredToken", "timestamp": int(NOW * 1000)}


def test_a_held_push_is_stored_replaced_and_delivered_at_its_time() -> None:
    held = [9.0, 8.0, 0.0]
    broker = PushBroker(SettableMacs(2), inject=lambda index: Injected(held=held.pop(0)) if index == 0 else None)
    push(broker, NOW, 0)
    newest = push(broker, NOW + 1.0, 0)
    other = push(broker, NOW + 1.0, 1)
    assert ids(broker) == [other]
    assert broker.deadline == NOW + 9.0
    broker.came_back(0, NOW + 5.0)
    assert ids(broker) == []
    broker.advance(NOW + 9.0)
    assert ids(broker) == [newest]
    assert (broker.counts.stored, broker.counts.replaced) == (2, 1)


def test_a_held_push_that_may_not_be_stored_is_dropped() -> None:
    broker = PushBroker(SettableMacs(), inject=lambda _index: Injected(held=9.0))
    push(broker, apns_expiration="0")
    assert (broker.counts.accepted, broker.counts.discarded, broker.waiting) == (1, 1, 0)


# Any order of events


@dataclass
class Expected:
    """The expected next notification of a Mac: the newest push that was not delivered."""

    apns_id: str
    expires: float


class StoreAndForward(RuleBasedStateMachine):
    """With any pushes, times and offline Macs, the newest unexpired notification is delivered exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = SettableMacs(MACS)
        self.broker = PushBroker(self.macs)
        self.now = NOW
        self.expected: dict[int, Expected] = {}
        self.delivered: set[str] = set()

    @rule(index=st.integers(0, MACS - 1), expiration=st.none() | st.integers(-5, 30))
    def push(self, index: int, expiration: int | None) -> None:
        """A provider pushes; 0 stands for the header's 0, the others are seconds from now."""
        headers = {}
        if expiration is not None:
            headers["apns_expiration"] = str(int(self.now) + expiration if expiration else 0)
        apns_id = push(self.broker, self.now, index, **headers)
        expires = self.now + DAY if expiration is None else float(int(self.now) + expiration)
        dead = expiration is not None and expiration != 0 and expires <= self.now
        if self.macs.standing[index] is Presence.ONLINE:
            assert self.taken() == ([] if dead else [apns_id])
        elif not dead and expiration != 0:
            self.expected[index] = Expected(apns_id, expires)

    @rule(index=st.integers(0, MACS - 1))
    def go_offline(self, index: int) -> None:
        """The Mac is off."""
        self.macs.standing[index] = Presence.OFFLINE

    @rule(index=st.integers(0, MACS - 1))
    def come_back(self, index: int) -> None:
        """The Mac is online (again)."""
        self.macs.standing[index] = Presence.ONLINE
        self.broker.came_back(index, self.now)
        expected = self.expected.pop(index, None)
        assert self.taken() == ([expected.apns_id] if expected is not None and expected.expires > self.now else [])

    @rule(seconds=st.sampled_from((0.5, 3.0, 20.0, DAY)), looks=st.booleans())
    def pass_time(self, seconds: float, looks: bool) -> None:
        """Time passes; the broker's caller may be late."""
        self.now += seconds
        if looks:
            self.broker.advance(self.now)
            assert self.taken() == []
            assert self.broker.deadline is None or self.broker.deadline > self.now

    def taken(self) -> list[str]:
        """The notifications delivered since the last check; none was delivered before."""
        taken = ids(self.broker)
        assert not self.delivered.intersection(taken)
        self.delivered.update(taken)
        return taken

    @invariant()
    def everything_is_counted_once(self) -> None:
        """No notification is lost between the counts."""
        counts = self.broker.counts
        ended = len(self.delivered) + counts.replaced + counts.expired + counts.discarded
        assert counts.accepted == ended + self.broker.waiting
        assert self.broker.waiting <= MACS


TestStoreAndForward = StoreAndForward.TestCase
TestStoreAndForward.settings = examples(25, explored=50)
