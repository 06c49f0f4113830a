"""From findings to verdicts: levels, capabilities, probes that did not come to their end, waivers. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum

import msgspec
from twisted.logger import Logger, LogLevel

from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, ProbeRecord, Record, Trace
from agent.conform.verdicts.requirement import Finding, Level, Outcome, Requirement, not_tested
from agent.conform.verdicts.waivers import Waiver

_log = Logger()
_ENROLLING = (("checkin", "Authenticate"), ("checkin", "TokenUpdate"))
_NOT_RUN = "The probe {probe} did not run."


class Verdict(StrEnum):
    """The verdict on a requirement."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    WARN = "warn"
    """A requirement that is no must failed."""
    NOT_APPLICABLE = "not applicable"
    """By the capabilities file: never a pass."""
    NOT_TESTED = "not tested"


class Waived(StrEnum):
    """What a waiver does to a verdict."""

    NO = ""
    EXPECTED = "expected"
    """It failed, and a waiver in force expects that."""
    EXPIRED = "expired"
    """It failed, and the waiver for it is past its date."""
    STALE = "stale"
    """A waiver in force expects a failure that did not happen: the waiver is to be removed."""


class Judged(msgspec.Struct, frozen=True):
    """One requirement with its verdict."""

    requirement: Requirement
    verdict: Verdict
    finding: Finding
    waived: Waived = Waived.NO
    waiver: Waiver | None = None

    @property
    def breaks(self) -> bool:
        """Whether it makes the run fail: a must that failed without a waiver in force."""
        return self.verdict is Verdict.FAIL and self.waived is not Waived.EXPECTED


class Judgement(msgspec.Struct, frozen=True):
    """All verdicts of a run."""

    judged: tuple[Judged, ...]
    reached: bool = True
    """Whether Macs could enroll to the end of the run; also if none tried to."""

    @property
    def counts(self) -> dict[str, int]:
        """How many requirements have each of the five verdicts."""
        return {each.value: sum(one.verdict is each for one in self.judged) for each in Verdict}

    @property
    def exit_status(self) -> int:
        """1: a must failed; 3: no Mac could enroll, or the server stopped answering; 2: nothing was judged; 4: only
        expected failures, or waivers for failures that did not happen; else 0. The first that holds.
        """
        if any(each.breaks for each in self.judged):
            return 1
        if not self.reached:
            return 3
        if all(each.verdict in (Verdict.NOT_APPLICABLE, Verdict.NOT_TESTED) for each in self.judged):
            return 2
        return 4 if any(each.waived in (Waived.EXPECTED, Waived.STALE) for each in self.judged) else 0

    def failures(self) -> list[Judged]:
        """What failed or warns."""
        return [each for each in self.judged if each.verdict in (Verdict.FAIL, Verdict.WARN)]


def judge(
    trace: Trace,
    requirements: Iterable[Requirement],
    capabilities: Mapping[str, bool],
    waivers: Sequence[Waiver] = (),
) -> Judgement:
    """Judge the requirements over a trace. Waivers have to be in force on its day."""
    day = day_of(trace)
    by_id = {waiver.id: waiver for waiver in waivers}
    records = _by_probe(trace)
    return Judgement(
        tuple(
            _waived(*_judged(each, records, capabilities, trace.header.os), by_id.get(each.id), day)
            for each in requirements
        ),
        _reached(trace),
    )


def day_of(trace: Trace) -> date:
    """The day, in UTC, on which the run started."""
    return datetime.fromtimestamp(trace.header.started, UTC).date()


def _reached(trace: Trace) -> bool:
    """Whether a Mac could enroll, if one tried to, and the server still answered the last one that tried.

    A trace without the end of any probe shows neither.
    """
    exchanges = [each for each in trace.records if isinstance(each, ExchangeRecord) and not each.rules]
    tried = [each for each in exchanges if each.kind == "enroll" or (each.kind, each.message_type) in _ENROLLING]
    if not tried:
        return any(isinstance(each, ProbeRecord) for each in trace.records)
    return tried[-1].status is not None and any(each.accepted for each in tried if each.message_type == "TokenUpdate")


def _by_probe(trace: Trace) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in trace.records:
        found.setdefault(record.probe, []).append(record)
    return found


def _judged(
    requirement: Requirement, records: Mapping[str, list[Record]], capabilities: Mapping[str, bool], os: str | None
) -> tuple[Requirement, Verdict, Finding]:
    if requirement.needs is not None and not capabilities.get(requirement.needs, True):
        reason = f"The capabilities say that the server has no {requirement.needs}."
        return requirement, Verdict.NOT_APPLICABLE, Finding(Outcome.NOT_TESTED, reason=reason)
    own = [record for probe in requirement.probes for record in records.get(probe, ())]
    own.sort(key=lambda record: record.number)
    stopped = _stopped(requirement, own)
    if not own or all(isinstance(record, ProbeRecord) for record in own):
        return requirement, Verdict.NOT_TESTED, not_tested(stopped or _NOT_RUN.format(probe=requirement.probes[0]))
    finding = _found(requirement, Evidence(own, os, stopped))
    if finding.outcome is Outcome.FAILED:
        return requirement, Verdict.FAIL if requirement.level is Level.MUST else Verdict.WARN, finding
    if finding.outcome is Outcome.PASSED and not stopped:
        return requirement, Verdict.PASS, finding
    reason = stopped or finding.reason
    return requirement, Verdict.NOT_TESTED, Finding(Outcome.NOT_TESTED, reason=reason, records=finding.records)


def _stopped(requirement: Requirement, records: Sequence[Record]) -> str:
    """Why one of the probes did not come to its end; empty if all did."""
    ended = {record.probe: record for record in records if isinstance(record, ProbeRecord)}
    for probe in requirement.probes:
        record = ended.get(probe)
        if record is None:
            return _NOT_RUN.format(probe=probe)
        if record.outcome != "done":
            return record.reason or f"The probe {probe} did not come to its end."
    return ""


def _found(requirement: Requirement, evidence: Evidence) -> Finding:
    """The finding of the check. A check that cannot read the trace judges nothing: a defect of this program, or a trace
    that this program did not write.
    """
    try:
        return requirement.check(evidence)
    except Exception as error:  # noqa: BLE001 - one check must not take the verdicts of the others with it
        _log.failure("the check of {id} failed", level=LogLevel.debug, id=requirement.id)
        return not_tested(f"The check could not read the trace ({type(error).__name__}: {error}).")


def _waived(requirement: Requirement, verdict: Verdict, finding: Finding, waiver: Waiver | None, day: date) -> Judged:
    if waiver is None:
        return Judged(requirement, verdict, finding)
    in_force = waiver.until is None or day <= waiver.until
    if verdict in (Verdict.FAIL, Verdict.WARN):
        return Judged(requirement, verdict, finding, Waived.EXPECTED if in_force else Waived.EXPIRED, waiver)
    stale = in_force and verdict is Verdict.PASS
    return Judged(requirement, verdict, finding, Waived.STALE if stale else Waived.NO, waiver)
