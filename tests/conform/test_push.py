"""Requirements of pushes: without a gateway, for tokens that no Mac has sent, and after 410."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from conform_runs import SECONDS, authorities, header, played, played_in_lab
from msgspec import structs
from msgspec.structs import replace
from twisted.internet import reactor

from agent.conform.probes import Probe
from agent.conform.requirements import selected
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.run import Run
from agent.conform.stage.stage import INFORMATION, Stage
from agent.conform.stage.target import embedded_lab
from agent.conform.trace.recorder import Recorder
from agent.conform.trace.records import ProbeRecord, PushRecord, Trace
from agent.conform.verdicts.judge import Judged, judge
from agent.mdm import checkin
from agent.servers.server import RequestFailed

InReactor = Callable[[Coroutine[Any, Any, Any]], Any]


def judged(trace: Trace, *only: str) -> list[Judged]:
    return list(judge(trace, selected("all", only), {}).judged)


def test_without_a_gateway_pushes_are_not_tested_and_commands_of_an_offline_mac_are(run_in_reactor: InReactor) -> None:
    async def scenario() -> Trace:
        target = embedded_lab(reactor, authorities())
        try:
            apart = replace(target, lab=None)  # as the lab of another process: the stage has no gateway for it
            return await played(apart, selected("all", ["MDM-PUSH"]), patience=SECONDS)
        finally:
            assert target.lab is not None
            await target.lab.close()

    verdicts = {each.requirement.id: each for each in judged(run_in_reactor(scenario()), "MDM-PUSH")}
    assert verdicts.pop("MDM-PUSH-16").verdict.value == "pass"
    assert {(each.verdict.value, each.finding.reason) for each in verdicts.values()} == {
        ("not tested", "The server's pushes cannot be seen: there is no gateway for them. Give --apns.")
    }


def test_a_push_to_a_token_that_no_mac_has_sent_fails_the_token_alone(run_in_reactor: InReactor) -> None:
    trace = run_in_reactor(played_in_lab(selected("all", ["MDM-PUSH-02", "MDM-PUSH-04"])))
    trace.records = [structs.replace(each, udid="") if isinstance(each, PushRecord) else each for each in trace.records]
    failed = [each for each in judged(trace, "MDM-PUSH") if each.verdict.value in ("fail", "warn")]
    assert [(each.requirement.id, each.finding.seen) for each in failed] == [
        ("MDM-PUSH-04", "one that no Mac has sent"),
    ]


def test_after_410_the_lab_pushes_again_when_the_mac_has_sent_its_token_again(run_in_reactor: InReactor) -> None:
    async def play(stage: Stage) -> None:
        mac = await stage.enrolled()
        stage.rule(mac, on="push", do="refuse", reason="Unregistered", times=1)
        with suppress(RequestFailed):
            await stage.queue(mac, INFORMATION)
        with pytest.raises(RequestFailed, match="no longer valid"):
            await stage.queue(mac, INFORMATION)
        message = checkin.token_update(mac.udid, mac_enrollment(mac).topic, mac.mac.push_token, mac.mac.push_magic)
        await stage.raw.check_in(mac, message)
        await stage.result(await stage.queue(mac, INFORMATION))

    async def scenario() -> Trace:
        recorder = Recorder(header())
        stage = Stage(reactor, embedded_lab(reactor, authorities()), recorder, seed="conform", patience=SECONDS)
        stage.open()
        try:
            await Run(reactor, stage, [Probe("again", "Sends the token again.", play)]).play()
        finally:
            await stage.close()
        return recorder.trace

    records = run_in_reactor(scenario()).records
    assert [(each.outcome, each.reason) for each in records if isinstance(each, ProbeRecord)] == [("done", "")]
    assert [each.status for each in records if isinstance(each, PushRecord)] == [410, 200]
