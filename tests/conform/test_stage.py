"""The stage: adapters other than the lab's, probes that fail, and what cannot be provoked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from conform_runs import SECONDS, authorities, header, played
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.conform.judge import Judged, judge
from agent.conform.probes import Probe
from agent.conform.recorder import Recorder
from agent.conform.requirements import requirements, selected
from agent.conform.run import STOPPED, Run
from agent.conform.stage import Stage
from agent.conform.target import Target, embedded_lab
from agent.conform.trace import ProbeRecord, PushRecord, Trace
from agent.servers.configs import RequestTemplate, Trust, WebhookConfig

InReactor = Callable[[Coroutine[Any, Any, Any]], Any]


def lab() -> Target:
    return embedded_lab(reactor, authorities())


def as_webhook(target: Target) -> Target:
    """The lab as a server that queues and pushes by two requests."""
    assert target.lab is not None
    macs, pem = f"{target.lab.url}/api/v1/macs/{{udid}}", target.lab.authorities.anchor.public_bytes(Encoding.PEM)
    headers = (("Authorization", f"Bearer {target.lab.token}"), ("Content-Type", "application/xml"))
    enqueue = RequestTemplate("POST", f"{macs}/commands?push=0", headers, "{command_plist}")
    config = WebhookConfig(enqueue, RequestTemplate("POST", f"{macs}/push", headers), Trust(pem.decode(), system=False))
    return replace(target, adapter="webhook", config=config)


def judged(trace: Trace, *only: str) -> list[Judged]:
    return list(judge(trace, selected("all", only), {}).judged)


def test_a_webhook_queues_and_pushes_and_its_lom_requirements_are_not_tested(run_in_reactor: InReactor) -> None:
    async def scenario() -> Trace:
        return await played(as_webhook(lab()), selected("all", ["MDM-SESSION-04", "LOM-SETUP"]), patience=SECONDS)

    trace = run_in_reactor(scenario())
    session, *lom = [*judged(trace, "MDM-SESSION-04"), *judged(trace, "LOM-SETUP")]
    assert session.verdict.value == "pass"
    assert [each.status for each in trace.records if isinstance(each, PushRecord)] == [200]
    assert {each.verdict.value for each in lom} == {"not tested"}
    assert "The adapter webhook has no LOM actions" in lom[0].finding.reason


def test_without_an_adapter_what_needs_a_command_is_not_tested(run_in_reactor: InReactor) -> None:
    async def scenario() -> Trace:
        target = replace(lab(), adapter="none", config=None)
        return await played(target, selected("all", ["MDM-SESSION"]), patience=SECONDS)

    verdicts = {each.requirement.id: each for each in judged(run_in_reactor(scenario()), "MDM-SESSION")}
    passing = [id_ for id_, each in verdicts.items() if each.verdict.value == "pass"]
    assert passing == ["MDM-SESSION-01", "MDM-SESSION-10", "MDM-SESSION-11"]
    assert verdicts["MDM-SESSION-03"].verdict.value == "not tested"
    assert "Give --server" in verdicts["MDM-SESSION-03"].finding.reason


def test_a_probe_that_fails_or_takes_too_long_leaves_the_others_alone(run_in_reactor: InReactor) -> None:
    played_ones: list[str] = []

    async def fails(stage: Stage) -> None:
        stage.service.find("no such Mac")

    async def for_ever(stage: Stage) -> None:
        await stage.until(lambda: False, "the end comes")

    async def good(stage: Stage) -> None:
        played_ones.append((await stage.enrolled()).udid)

    async def stops(_stage: Stage) -> None:
        run.stop()
        await Deferred()

    probes = [
        Probe("fails", "Fails.", fails),
        Probe("for-ever", "Waits.", for_ever, seconds=0.05),
        Probe("good", "Enrolls.", good),
        Probe("stops", "Is stopped.", stops),
        Probe("last", "Is not reached.", good),
    ]
    recorder = Recorder(header())
    stage = Stage(reactor, lab(), recorder, seed="conform", patience=SECONDS)
    run = Run(reactor, stage, probes)

    async def scenario() -> None:
        stage.open()
        try:
            await run.play()
        finally:
            await stage.close()

    run_in_reactor(scenario())
    ended = {
        each.probe: (each.outcome, each.reason) for each in recorder.trace.records if isinstance(each, ProbeRecord)
    }
    assert ended["fails"][0] == "stopped"
    assert "no such Mac" in ended["fails"][1]
    assert ended["for-ever"] == ("stopped", "The probe for-ever did not end within 0.1 s.")
    assert ended["good"] == ("done", "")
    assert ended["stops"] == ("stopped", STOPPED)
    assert ended["last"] == ("not run", STOPPED)
    assert len(played_ones) == 1
    assert {each.verdict.value for each in judge(recorder.trace, requirements(), {}).judged} == {"not tested"}
