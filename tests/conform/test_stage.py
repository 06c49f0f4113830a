"""The stage: adapters other than the lab's, probes that fail, and what cannot be provoked."""

from __future__ import annotations

import json
import plistlib
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest
from conform_runs import SECONDS, authorities, header, played
from conform_targets import as_webhook
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Site

from agent.conform.probes import Probe
from agent.conform.requirements import requirements, selected
from agent.conform.stage.run import Run
from agent.conform.stage.stage import Stage
from agent.conform.stage.target import Target, embedded_lab
from agent.conform.trace.recorder import Recorder
from agent.conform.trace.records import STOPPED, NoteRecord, ProbeRecord, PushRecord, Trace
from agent.conform.verdicts.judge import Judged, judge
from agent.net.apns.provider import PushFailed
from agent.servers.configs import LOMTemplates, MicroMDMConfig, RequestTemplate, WebhookConfig

InReactor = Callable[[Coroutine[Any, Any, Any]], Any]


def lab() -> Target:
    return embedded_lab(reactor, authorities())


def as_lom_webhook(target: Target) -> Target:
    """The same with the lab's LOM actions."""
    hook = as_webhook(target)
    assert target.lab is not None
    assert isinstance(hook.config, WebhookConfig)
    macs, json = f"{target.lab.url}/api/v1/macs/{{udid}}/lom", ("Content-Type", "application/json")
    headers = (("Authorization", f"Bearer {target.lab.token}"), json)
    lom = LOMTemplates(
        RequestTemplate(
            "POST",
            f"{macs}/profile?push=0",
            headers,
            '{"dns_name": "{dns_name}", "device": {device}, "controller": {controller}}',
        ),
        RequestTemplate("POST", f"{macs}/setup?push=0", headers),
        RequestTemplate("POST", f"{macs}/request?push=0", headers, '{"action": "{action}", "devices": {devices_json}}'),
    )
    return replace(hook, config=replace(hook.config, lom=lom))


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


class MicroMDMAPI(Resource):
    """MicroMDM's API in front of a lab: commands as property lists, and LOM commands as JSON, which it encodes."""

    isLeaf = True
    keys: ClassVar[dict[str, str]] = {
        "device_request_type": "DeviceRequestType",
        "device_request_uuid": "DeviceRequestUUID",
        "device_dns_name": "DeviceDNSName",
        "primary_ip_v6_address_list": "PrimaryIPv6AddressList",
        "secondary_ip_v6_address_list": "SecondaryIPv6AddressList",
        "lom_protocol_version": "LOMProtocolVersion",
    }

    def __init__(self, target: Target, *, without: str = "") -> None:
        super().__init__()
        assert target.lab is not None
        self._server = target.lab
        self._without = without

    def render_POST(self, request: Any) -> bytes:
        body = request.content.read()
        if request.path == b"/v1/commands":
            asked = json.loads(body)
            command = {"RequestType": asked["request_type"]}
            if "request_list" in asked:
                command["RequestList"] = [self._item(each) for each in asked["request_list"]]
            udid = asked["udid"]
            queued = self._server.lab.enqueue(udid, command)
        else:
            sent = plistlib.loads(body)
            udid = request.path.decode().rpartition("/")[2]
            queued = self._server.lab.enqueue(udid, sent["Command"], command_uuid=sent["CommandUUID"])
        assert self._server.push is not None
        self._server.push.push(udid).addErrback(lambda failure: failure.trap(PushFailed))
        request.setResponseCode(201)
        return json.dumps({"payload": {"command_uuid": queued}}).encode()

    def _item(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: values[key] for key, name in self.keys.items() if name != self._without}


def played_through_micromdm(run_in_reactor: InReactor, probed: str, **api: Any) -> dict[str, str]:
    """The verdicts of the LOM requirements through MicroMDM's API, after the probes of those that begin so."""

    async def scenario() -> Trace:
        target = lab()
        port = reactor.listenTCP(0, Site(MicroMDMAPI(target, **api)), interface="127.0.0.1")  # type: ignore[attr-defined]
        try:
            config = MicroMDMConfig(f"http://127.0.0.1:{port.getHost().port}", "key")
            through = replace(target, adapter="micromdm", config=config)
            return await played(through, selected("all", [probed]), patience=SECONDS)
        finally:
            await port.stopListening()

    return {each.requirement.id: each.verdict.value for each in judged(run_in_reactor(scenario()), "LOM")}


def test_through_micromdm_only_the_form_of_lom_commands_and_what_follows_is_judged(run_in_reactor: InReactor) -> None:
    verdicts = played_through_micromdm(run_in_reactor, "LOM")
    assert {id_ for id_, verdict in verdicts.items() if verdict == "pass"} == {
        *("LOM-DEVICE-01", "LOM-DEVICE-08", "LOM-DEVICE-09", "LOM-DEVICE-10"),
        *("LOM-DEVICE-13", "LOM-DEVICE-14", "LOM-DEVICE-16", "LOM-SETUP-02", "LOM-SETUP-20"),
    }
    assert {verdict for verdict in verdicts.values() if verdict != "pass"} == {"not tested"}


def test_what_micromdm_encodes_wrongly_fails(run_in_reactor: InReactor) -> None:
    verdicts = played_through_micromdm(run_in_reactor, "LOM-DEVICE", without="SecondaryIPv6AddressList")
    assert [id_ for id_, verdict in verdicts.items() if verdict in ("fail", "warn")] == ["LOM-DEVICE-01"]


@pytest.mark.parametrize(
    ("said", "probed"),
    [(True, ["LOM-SETUP-01", "LOM-DEVICE-01"]), (False, ["LOM"])],
    ids=["CommandUUID known", "CommandUUID unknown"],
)
def test_a_webhook_with_lom_requests_has_the_server_compose_the_commands(
    run_in_reactor: InReactor, monkeypatch: pytest.MonkeyPatch, said: bool, probed: list[str]
) -> None:
    if not said:
        monkeypatch.setattr("agent.servers.webhook._UUID_KEYS", ())

    async def scenario() -> Trace:
        return await played(as_lom_webhook(lab()), selected("all", probed), patience=SECONDS)

    trace = run_in_reactor(scenario())
    assert [each.requirement.id for each in judged(trace, *probed) if each.verdict.value != "pass"] == []
    queued = [each for each in trace.records if isinstance(each, NoteRecord) and each.step == "queued"]
    assert {bool(each.command_uuid) for each in queued if each.request_type == "LOMDeviceRequest"} == {said}


def test_without_an_adapter_what_needs_a_command_is_not_tested(run_in_reactor: InReactor) -> None:
    async def scenario() -> Trace:
        target = replace(lab(), adapter="none", config=None)
        return await played(target, selected("all", ["MDM-SESSION"]), patience=SECONDS)

    verdicts = {each.requirement.id: each for each in judged(run_in_reactor(scenario()), "MDM-SESSION")}
    passing = [id_ for id_, each in verdicts.items() if each.verdict.value == "pass"]
    assert passing == ["MDM-SESSION-01"]
    for number in (3, 10, 11):  # that it survived is shown by a command
        assert verdicts[f"MDM-SESSION-{number:02d}"].verdict.value == "not tested"
        assert "Give --server" in verdicts[f"MDM-SESSION-{number:02d}"].finding.reason


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
