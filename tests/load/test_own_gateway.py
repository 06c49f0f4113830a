"""Pushes that our own gateway refuses: what fails because of them is told as ours, and not as the server's."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from conftest import RunInReactor
from load_runs import ENROLL, counts, failed, load_run

from agent.load.conductor import Conductor
from agent.net.apns.router import PushRouter
from agent.push.counts import merge_push_counts

COMMAND = {"kind": "command", "request": {"RequestType": "ProfileList"}}
PUSHED = {"kind": "checkin", "by": "push"}


def run(run_in_reactor: RunInReactor, *phases: dict[str, Any], **tables: Any) -> Conductor:
    """Run these phases, one Mac after another, after the enrollment of all."""
    return run_in_reactor(load_run(ENROLL, *({**phase, "concurrency": 8} for phase in phases), **tables))


def full(monkeypatch: pytest.MonkeyPatch, most: int = 0) -> None:
    """A router that is at its limit from the start, as when a machine is overloaded."""
    monkeypatch.setattr("agent.load.pushes.PushRouter", partial(PushRouter, most=most))


@pytest.mark.parametrize("phase", [COMMAND, PUSHED], ids=["command", "checkin"])
def test_a_server_that_hands_our_own_refusal_on_has_not_failed(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, phase: dict[str, Any]
) -> None:
    full(monkeypatch)
    monkeypatch.setattr("agent.net.apns.provider.TRIES", 1)  # the lab gives the 503 on at once
    conductor = run(run_in_reactor, {**phase, "timeout": 60.0})
    metrics = conductor.metrics()
    assert failed(metrics) == {("push", "own_gateway"): 8, ("delivery", "own_gateway"): 8}
    assert counts(metrics)["enqueue"] == 8
    assert "no failure of the server" in metrics.failures()[0].example
    assert merge_push_counts(conductor.push_counts())["own"]["overloaded"] == 8


@pytest.mark.parametrize("phase", [COMMAND, PUSHED], ids=["command", "checkin"])
def test_a_server_that_still_tries_when_the_time_is_over_has_not_failed(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, phase: dict[str, Any]
) -> None:
    full(monkeypatch)
    conductor = run(run_in_reactor, {**phase, "timeout": 3.0})
    assert failed(conductor.metrics())["delivery", "own_gateway"] == 8
    assert {kind for _, kind in failed(conductor.metrics())} == {"own_gateway"}


def test_a_push_that_a_rule_refuses_is_not_ours(run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.net.apns.provider.TRIES", 1)
    conductor = run(run_in_reactor, {**COMMAND, "timeout": 60.0}, rule=[{"on": "push", "do": "refuse"}])
    assert failed(conductor.metrics()) == {("push", "server_push"): 8, ("delivery", "server_push"): 8}
