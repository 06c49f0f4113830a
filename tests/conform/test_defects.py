"""The lab passes every requirement; with a defect, exactly the requirements that it names fail."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from conform_runs import authorities, played_in_lab
from hypothesis import settings
from msgspec.structs import replace
from twisted.internet import reactor

from agent import plists
from agent.conform.requirements import requirements
from agent.conform.trace.bodies import Body
from agent.conform.trace.records import (
    ExchangeRecord,
    MacRecord,
    NoteRecord,
    PushRecord,
    Record,
    Trace,
    read_trace,
    write_trace,
)
from agent.conform.verdicts.judge import Verdict, judge
from agent.conform.verdicts.requirement import Requirement
from agent.fleet.population import Mac, Population
from agent.lab.defects import Defect, all_defects
from agent.lab.mdm.core import Lab
from agent.lab.mdm.declarations import Declarations
from agent.lab.web.server import LabServer
from agent.pki.cms import open_signed

Run = Callable[..., Any]
WITHOUT_ANSWERS = {"MDM-ENROLL-20", "MDM-ENROLL-28", *(f"OS27-TLS-{number:02}" for number in range(2, 6))}
"""What is judged by the certificates that the Macs got, and by handshakes."""
EVERY_PROBE = 900.0  # seconds in which a busy machine plays all probes
LAB = Path(__file__).parent.parent.parent / "agent" / "lab"


def group_of(defect: Defect) -> list[Requirement]:
    """The requirements whose probes are played: those that fail; with the profile of `tox -e explore` all.

    All requirements are judged in any case, also the others that see these probes.
    """
    if settings.get_current_profile_name() == "explore":
        return list(requirements())
    return [each for each in requirements() if each.id in defect.fails]


def test_the_lab_passes_every_requirement_and_its_trace_gives_the_same_verdicts(
    run_in_reactor: Run, tmp_path: Path
) -> None:
    trace = run_in_reactor(played_in_lab(requirements()), EVERY_PROBE)
    judgement = judge(trace, requirements(), {})
    judged = list(judgement.judged)
    for identity in ("scep", "acme"):  # what only a lab with these can show is judged there
        left = [each.requirement for each in judged if each.verdict is Verdict.NOT_TESTED]
        again = judge(run_in_reactor(played_in_lab(left, identity=identity)), left, {}).judged
        judged = [*(each for each in judged if each.requirement not in left), *again]
    assert [(each.requirement.id, each.finding) for each in judged if each.verdict is not Verdict.PASS] == []
    assert judgement.exit_status == 0
    file = write_trace(tmp_path / "trace.jsonl", trace)
    assert judge(read_trace(file), requirements(), {}) == judgement
    shown = judge(Trace(trace.header, list(map(unanswered, trace.records))), requirements(), {}).judged
    assert {each.requirement.id for each in shown if each.verdict is Verdict.PASS} == WITHOUT_ANSWERS
    written = file.read_text()
    assert "PRIVATE KEY" not in written
    macs = [each for each in trace.records if isinstance(each, MacRecord)]
    assert macs
    for record in macs:
        mac = mac_of(record)
        assert mac.udid == record.udid
        for secret in (mac.push_token, mac.bootstrap_token):
            assert b64encode(secret).decode().rstrip("=") not in written
            assert secret.hex() not in written.lower()
        assert mac.push_magic not in written


def unanswered(record: Record) -> Record:
    """The record of an exchange or a push, as if there had been no answer, and none."""
    if isinstance(record, ExchangeRecord):
        return replace(record, status=None, error="no answer", response=Body(), response_headers={})
    return (
        NoteRecord(number=record.number, probe=record.probe, at=0.0, step="")
        if isinstance(record, PushRecord)
        else record
    )


def mac_of(record: MacRecord) -> Mac:
    """The Mac of a record, made from the seed again: its probe and its place in the probe are part of it."""
    for added in range(1, 10):
        population = Population(f"conform/{record.probe}/{added}", 3)
        found = next((mac for mac in map(population.__getitem__, range(3)) if mac.udid == record.udid), None)
        if found is not None:
            return found
    raise AssertionError(f"{record.udid} does not follow from the seed")


@pytest.mark.parametrize("defect", all_defects(), ids=lambda defect: defect.name)
def test_a_defect_fails_exactly_its_requirements(run_in_reactor: Run, defect: Defect, tmp_path: Path) -> None:
    played = played_in_lab(group_of(defect), frozenset({defect.name}), identity=defect.identity)
    trace = run_in_reactor(played, EVERY_PROBE)
    judgement = judge(trace, requirements(), {})
    assert sorted(each.requirement.id for each in judgement.failures()) == sorted(defect.fails)
    for each in judgement.failures():
        assert each.finding.expected
        assert each.finding.seen
        assert each.finding.records
    file = write_trace(tmp_path / "trace.jsonl", trace)
    again = read_trace(file)
    assert (again.header, again.records) == (trace.header, trace.records)
    assert write_trace(tmp_path / "again.jsonl", again).read_bytes() == file.read_bytes()


def test_defects_of_the_enrollment_profile_can_be_together(run_in_reactor: Run) -> None:
    names = {"enroll-two-mdm", "enroll-no-ca", "enroll-more-payloads", "enroll-pinning-other", "enroll-topic"}

    async def scenario() -> bytes:
        server = LabServer(reactor, Lab(defects=frozenset(names)), authorities())
        server.listen()
        try:
            return server.enrollment_profile()
        finally:
            await server.close()

    profile = plists.load_dict(open_signed(run_in_reactor(scenario())).content)
    types = [each["PayloadType"] for each in profile["PayloadContent"]]
    assert types.count("com.apple.mdm") == 2
    assert len(types) == 5  # without the CA; with an identity, a policy, and the certificate that is pinned


def test_defects_of_declarative_management_can_be_together() -> None:
    names = [each.name for each in all_defects() if each.name.startswith("ddm-")]
    activation = "declaration/activation/test.lom-agent.lab.activation"
    endpoints = ("tokens", "declaration-items", activation, "declaration/activation/none", "declaration/asset/none")
    for some in (*combinations(names, 2), names):
        for declarations in (Declarations(defects=frozenset(some)), Declarations((), frozenset(some))):
            for endpoint in endpoints:
                answer = declarations.answer(endpoint)
                assert answer is None or isinstance(json.loads(answer), dict)


def test_every_requirement_has_a_defect_and_every_defect_is_asked_for_once() -> None:
    broken = {id_ for defect in all_defects() for id_ in defect.fails}
    assert {each.id for each in requirements()} == broken
    names = [defect.name for defect in all_defects()]
    assert len(set(names)) == len(names)
    source = "".join(path.read_text() for path in LAB.rglob("*.py") if path.parent.name != "defects")
    assert [name for name in names if f'"{name}"' not in source] == []


def test_the_same_seed_provokes_the_same_in_the_same_order(run_in_reactor: Run) -> None:
    some = [each for each in requirements() if each.id in ("LOM-DEVICE-08", "MDM-SESSION-03", "SEC-IDENTITY-01")]

    def provoked(trace: Trace) -> list[tuple[str, ...]]:
        return [
            (each.probe, each.udid)
            if isinstance(each, MacRecord)
            else (each.probe, each.udid, each.request_type, "" if each.data["by_server"] else each.command_uuid)
            for each in trace.records
            if isinstance(each, MacRecord) or (isinstance(each, NoteRecord) and each.step == "queued")
        ]

    first, second = (provoked(run_in_reactor(played_in_lab(some))) for _ in range(2))
    assert first == second
    assert len({probe for probe, *_ in first}) == 3
