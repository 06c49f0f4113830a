"""Pushes that our own gateway refuses: failures that they cause are reported as ours, not as the server's."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
from conftest import RunInReactor
from load_runs import ENROLL, Onlooker, counts, failed, load_run
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.server import NOT_DONE_YET

from agent.lab.mdm.core import Lab, Message
from agent.lab.web.connection import LabSite
from agent.load.conductor.conductor import Conductor
from agent.load.shard.parts import ShardParts
from agent.measure.live import LiveView
from agent.net.apns.router import PushRouter
from agent.net.timing import OutOfTime, Reactor, Stalls
from agent.push.counts import merge_push_counts
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer
from agent.servers.server import StatusRefused

MACS = 4
COMMAND = {"kind": "command", "request": {"RequestType": "ProfileList"}}
PUSHED = {"kind": "checkin", "by": "push"}


def run(run_in_reactor: RunInReactor, *phases: dict[str, Any], **tables: Any) -> Conductor:
    """Run these phases, one Mac after another, after the enrollment of all."""
    fleet = {"segment_size": MACS // 2}
    each = ({**phase, "concurrency": MACS} for phase in phases)
    return run_in_reactor(load_run(ENROLL, *each, devices=MACS, fleet=fleet, **tables))


def full(monkeypatch: pytest.MonkeyPatch, most: int = 0) -> None:
    """A router that is at its limit from the start, as when a machine is overloaded."""
    monkeypatch.setattr("agent.load.conductor.pushes.PushRouter", partial(PushRouter, most=most))


def test_a_server_that_hands_our_own_refusal_on_has_not_failed(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    monkeypatch.setattr("agent.net.apns.provider.TRIES", 1)  # the lab gives the 503 on at once
    conductor = run(run_in_reactor, *({**phase, "timeout": 60.0} for phase in (COMMAND, PUSHED)))
    metrics = conductor.metrics()
    assert [phase.state.failed for phase in conductor.phases] == [0, MACS, MACS]
    assert failed(metrics) == {("push", "own_gateway"): 2 * MACS, ("delivery", "own_gateway"): 2 * MACS}
    assert counts(metrics)["enqueue"] == 2 * MACS
    assert all("no failure of the server" in each.example for each in metrics.failures())
    assert merge_push_counts(conductor.push_counts())["own"]["overloaded"] == 2 * MACS


def test_a_server_that_still_tries_when_the_time_is_over_has_not_failed(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    conductor = run(run_in_reactor, *({**phase, "timeout": 6.0} for phase in (COMMAND, PUSHED)))
    assert [phase.state.failed for phase in conductor.phases] == [0, MACS, MACS]
    assert failed(conductor.metrics())["delivery", "own_gateway"] == 2 * MACS
    assert {kind for _, kind in failed(conductor.metrics())} == {"own_gateway"}


def silent_after_enrollment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that answers no report: no session ends."""

    def report(_lab: Lab, _put: Message) -> Any:
        return NOT_DONE_YET

    monkeypatch.setattr(Lab, "report", report)
    monkeypatch.setattr(
        "agent.lab.web.server.lab_site", lambda root, *_others: LabSite(root, {})
    )  # twisted.web can wait


@pytest.mark.parametrize("phase", [COMMAND, PUSHED], ids=["command", "checkin"])
def test_a_push_that_is_accepted_after_our_own_refusal_was_late_by_our_fault(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, phase: dict[str, Any]
) -> None:
    refused: set[str] = set()
    answered: list[int] = []

    class RefusesEachFirst(PushRouter):
        def route(self, fields: list[tuple[str, str]], *rest: Any) -> None:
            path = dict(fields)[":path"]
            self._most = len(self._outstanding) if path not in refused else 1000
            refused.add(path)
            super().route(fields, *rest)

        def answered(self, shard: int, answer: RoutedAnswer) -> None:
            super().answered(shard, answer)
            answered.append(shard)

    async def until_answered(waiting: Deferred[Any], _seconds: float, clock: Reactor, _stalls: Stalls) -> Any:
        def look() -> None:
            if len(answered) == MACS:
                waiting.cancel()
            else:
                clock.callLater(0.02, look)

        look()
        try:
            return await waiting
        except CancelledError:
            raise OutOfTime("every push was accepted") from None

    monkeypatch.setattr("agent.load.conductor.pushes.PushRouter", RefusesEachFirst)
    monkeypatch.setattr("agent.load.phases.waits.within", until_answered)
    silent_after_enrollment(monkeypatch)
    conductor = run(run_in_reactor, {**phase, "timeout": 600.0})
    pushes = merge_push_counts(conductor.push_counts())
    assert (pushes["own"]["overloaded"], pushes["accepted"]) == (MACS, MACS)
    assert failed(conductor.metrics())["delivery", "own_gateway"] == MACS


def test_a_server_whose_answer_is_an_error_because_of_our_own_refusal_has_not_failed(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    monkeypatch.setattr("agent.net.apns.provider.TRIES", 1)
    monkeypatch.setattr("agent.servers.lab.PushNotSent", StatusRefused)  # a server that does not say that it is a push
    conductor = run(run_in_reactor, {**COMMAND, "timeout": 60.0})
    assert failed(conductor.metrics()) == {("enqueue", "own_gateway"): MACS, ("delivery", "own_gateway"): MACS}


def test_time_limits_do_not_count_the_stalls_of_the_gateway(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards: list[ShardParts] = []

    class Kept(ShardParts):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            shards.append(self)

    monkeypatch.setattr("agent.load.shard.shard.ShardParts", Kept)
    stalled = []

    def stall(_view: LiveView) -> None:
        if not stalled:
            stalled.append(True)
            time.sleep(0.5)

    run_in_reactor(load_run(ENROLL, {"kind": "idle", "seconds": 2.0}, onlooker=Onlooker(stall)))
    assert len(shards) == 2
    assert all(shard.context.mac_waits.stalls.seconds >= shard.stalls.elsewhere >= 0.4 for shard in shards)


@pytest.mark.parametrize("kind", ["no_result", "server_timeout"])
def test_a_gateway_that_is_blocked_when_the_time_is_over_was_too_late(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The answer to the question why comes after the stall, and with it that there was one."""
    asked = ShardParts.__init__

    def with_stall(parts: ShardParts, reactor: Any, plan: Any, warn: Any, own_refusal: Any, *others: Any) -> None:
        def question(index: int, since: float) -> Any:
            parts.stalls.elsewhere += 0.5
            return own_refusal(index, since)

        asked(parts, reactor, plan, warn, question, *others)

    monkeypatch.setattr(ShardParts, "__init__", with_stall)
    silent_after_enrollment(monkeypatch)
    if kind == "server_timeout":
        monkeypatch.setattr("agent.lab.mdm.push.LabPush.push", lambda *_: Deferred())
    conductor = run(run_in_reactor, {**COMMAND, "timeout": 1.0})
    assert failed(conductor.metrics())["delivery", "own_gateway"] == MACS
    told = [each.example for each in conductor.metrics().failures() if each.kind == "own_gateway"]
    assert told
    assert all(f"cause {OwnCause.OVERLOADED.value}" in example for example in told)


def test_a_push_that_a_rule_refuses_is_not_ours(run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.net.apns.provider.TRIES", 1)
    conductor = run(run_in_reactor, {**COMMAND, "timeout": 60.0}, rule=[{"on": "push", "do": "refuse"}])
    assert failed(conductor.metrics()) == {("push", "server_push"): MACS, ("delivery", "server_push"): MACS}
