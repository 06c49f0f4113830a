"""Conformance of an MDM server that is not ours: the one of tests/support/plain_mdm.py, queued by a webhook."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command import lom_agent
from conform_runs import SECONDS, played
from cryptography.hazmat.primitives.serialization import Encoding
from plain_mdm import FAULTS, KEY, PlainMDM

from agent.conform.requirements import requirements, selected
from agent.conform.stage.target import Target
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.judge import Judgement, Verdict, judge
from agent.conform.verdicts.requirement import Level, Requirement
from agent.servers.configs import RequestTemplate, Trust, WebhookConfig

InReactor = Callable[[Coroutine[Any, Any, Any]], Any]
LACKS = {"ddm": False, "scep": False, "acme": False}
BROKEN = {
    "error": ("MDM-SESSION-07",),
    "forgets": ("MDM-SESSION-06",),
    "refuses": ("MDM-SESSION-01",),
    "repeats": ("MDM-SESSION-04",),
    "trusts": ("SEC-IDENTITY-01", "SEC-IDENTITY-02"),
}


def judged(
    run_in_reactor: InReactor,
    folder: Path,
    some: Iterable[Requirement],
    fault: str = "",
    *,
    key: str = KEY,
    lacks: Mapping[str, bool] = LACKS,
    busy: bool = False,
) -> Judgement:
    """The verdicts on the server with this fault: on all requirements, over the probes of some.

    Commands are queued with ``key``; ``lacks`` are the capabilities.
    """
    server = PlainMDM(folder, fault, busy=busy)
    pem = server.ca.certificate.public_bytes(Encoding.PEM).decode()
    headers = (("Authorization", f"Bearer {key}"), ("Content-Type", "application/xml"))
    enqueue = RequestTemplate("PUT", f"{server.url}/queue/{{udid}}", headers, "{command_plist}")
    config = WebhookConfig(enqueue, trust=Trust(pem, system=False))
    target = Target("webhook", f"{server.url}/enroll", config, anchors=(server.ca.certificate,))

    async def scenario() -> Judgement:
        trace = await played(target, list(some), patience=SECONDS)
        assert "PlainMDM" in {
            each.response_headers.get("server", "").partition("/")[0]
            for each in trace.records
            if isinstance(each, ExchangeRecord)
        }
        return judge(trace, requirements(), lacks)

    server.start()
    try:
        verdicts: Judgement = run_in_reactor(scenario())
        return verdicts
    finally:
        server.stop()


def test_a_correct_server_breaks_no_must_and_what_it_lacks_is_never_a_pass(
    run_in_reactor: InReactor, tmp_path: Path
) -> None:
    mdm = selected("mdm")
    found = {each.requirement.id: each for each in judged(run_in_reactor, tmp_path, mdm).judged}
    musts = [each.id for each in mdm if each.level is Level.MUST]
    assert [(id_, found[id_].finding) for id_ in musts if found[id_].verdict is Verdict.FAIL] == []
    assert {found[id_].verdict for ids in BROKEN.values() for id_ in ids} == {Verdict.PASS}
    for area in ("MDM-DDM", "MDM-SCEP", "MDM-ACME"):
        verdicts = {each.verdict for id_, each in found.items() if id_.startswith(area)}
        assert verdicts == {Verdict.NOT_APPLICABLE}


def test_commands_of_its_own_are_no_fault_of_a_server(run_in_reactor: InReactor, tmp_path: Path) -> None:
    some = selected("mdm", ["MDM-SESSION", "MDM-SURVIVE-03", "MDM-SURVIVE-07"])
    found = [each for each in judged(run_in_reactor, tmp_path, some, busy=True).judged if each.requirement in some]
    assert [(each.requirement.id, each.finding) for each in found if each.verdict is not Verdict.PASS] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_it_is_found_where_it_is(run_in_reactor: InReactor, tmp_path: Path, fault: str) -> None:
    some = [each for each in requirements() if each.id in BROKEN[fault]]
    failures = judged(run_in_reactor, tmp_path, some, fault).failures()
    assert tuple(each.requirement.id for each in failures) == BROKEN[fault]


def test_a_server_that_refuses_every_report_passes_and_fails_nothing_that_needs_one_accepted(
    run_in_reactor: InReactor, tmp_path: Path
) -> None:
    some = selected("mdm", ["SEC-IDENTITY", "MDM-SURVIVE", "MDM-SESSION-10", "MDM-SESSION-11"])
    judged_ = judged(run_in_reactor, tmp_path, some, "refuses").judged
    found = {each.requirement.id: each.verdict for each in judged_ if each.requirement in some}
    assert {id_: each for id_, each in found.items() if each is not Verdict.NOT_TESTED} == {
        "SEC-IDENTITY-02": Verdict.PASS  # a check-in message, which it accepts of others
    }


def test_a_page_instead_of_the_enrollment_profile_is_no_success(tmp_path: Path) -> None:
    server = PlainMDM(tmp_path)
    server.profile = lambda: b"<!DOCTYPE html><html><body>Log in</body></html>"  # type: ignore[method-assign]
    ca, trace = tmp_path / "ca.pem", tmp_path / "trace.jsonl"
    ca.write_bytes(server.ca.certificate.public_bytes(Encoding.PEM))
    server.start()
    try:
        only = ("--only", "MDM-SESSION-01", "--trace", str(trace))
        done = lom_agent("conform", *only, "--enroll", f"{server.url}/enroll", "--ca", str(ca))
    finally:
        server.stop()
    again = lom_agent("conform", "--from-trace", str(trace))
    for each in (done, again):
        assert each.returncode == 3, each.stderr
        assert b"No Mac could enroll" in each.stdout


def test_a_server_without_declarative_management_passes_no_requirement_of_it_without_a_capabilities_file(
    run_in_reactor: InReactor, tmp_path: Path
) -> None:
    some = selected("all", ["MDM-DDM"])
    found = {each.requirement.id: each.verdict for each in judged(run_in_reactor, tmp_path, some, lacks={}).judged}
    assert {id_ for id_ in found if id_.startswith("MDM-DDM") and found[id_] is Verdict.PASS} == set()
    assert found["MDM-DDM-01"] is Verdict.FAIL


def test_a_server_that_refuses_every_command_does_not_pass_for_those_that_macs_do_not_support(
    run_in_reactor: InReactor, tmp_path: Path
) -> None:
    some = selected("all", ["OS27-CMD"])
    found = judged(run_in_reactor, tmp_path, some, key="another key").judged
    assert {each.verdict for each in found if each.requirement in some} == {Verdict.NOT_TESTED}
    correct = judged(run_in_reactor, tmp_path, some).failures()
    assert [each.requirement.id for each in correct] == [each.id for each in some]


def test_the_command_finds_its_fault_through_a_webhook(tmp_path: Path) -> None:
    server = PlainMDM(tmp_path, "repeats")
    ca, capabilities = tmp_path / "ca.pem", tmp_path / "capabilities.toml"
    ca.write_bytes(server.ca.certificate.public_bytes(Encoding.PEM))
    capabilities.write_text("[capabilities]\nddm = false\n")
    settings = {
        "method": "'PUT'",
        "url": f"'{server.url}/queue/{{udid}}'",
        "headers": f"{{ Authorization = 'Bearer {KEY}', Content-Type = 'application/xml' }}",
        "body": "'{command_plist}'",
    }
    given = [part for key, value in settings.items() for part in ("--set", f"server.webhook.enqueue.{key}={value}")]
    only = [part for each in ("MDM-SESSION-03", "MDM-SESSION-04", "MDM-DDM-01") for part in ("--only", each)]
    server.start()
    try:
        done = lom_agent(
            "conform", "--profile", "mdm", *only, "--enroll", f"{server.url}/enroll", "--ca", str(ca),
            "--capabilities", str(capabilities), "--server", "webhook", *given,
        )  # fmt: skip
    finally:
        server.stop()
    assert done.returncode == 1, done.stderr
    assert b"PlainMDM" in done.stdout
    assert b"3 requirements: 1 pass, 1 fail, 0 warn, 1 not applicable, 0 not tested." in done.stdout
    assert b"the command that was answered" in done.stdout
