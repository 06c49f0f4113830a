"""The report of a conformance run as plain data: what ``--json`` writes, and what every other output is made from. No
I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from signal import SIGINT
from typing import Any

import msgspec
from msgspec import Struct

from agent import __version__
from agent.conform.trace.records import ExchangeRecord, NoteRecord, PushRecord, ServerFacts, TLSRecord, Trace
from agent.conform.verdicts.judge import Judged, Judgement, Waived
from agent.conform.verdicts.requirement import Requirement

SCHEMA = "lom-agent conformance report"
VERSION = 1
MOST_EVIDENCE = 6  # records under one verdict
_CONCLUSIONS = {
    0: "No must failed.",
    1: "A must failed.",
    2: "No requirement was judged: nothing shows whether the server does what is required.",
    3: "No Mac could enroll, or the server stopped answering: what needs an enrolled Mac was not tested.",
    4: "No must failed without a waiver; some waivers expect a failure that happened, or one that did not.",
}
_STOPPED = "The run was stopped: the requirements that were not reached are not tested."
_CUT = (
    "The trace has no end: it was cut off, or an earlier version of lom-agent wrote it. So it is not known whether the "
    "run came to its end."
)


class Evidence(Struct, frozen=True, omit_defaults=True):
    """One record that shows a verdict."""

    number: int
    """In the trace."""
    title: str
    """On one line."""
    sent: Any = None
    """What the Mac sent, or the gateway got."""
    answered: Any = None
    """What the server answered."""


class Entry(Struct, frozen=True):
    """One requirement with its verdict."""

    id: str
    level: str
    says: str
    source: str
    verdict: str
    """``pass``, ``fail``, ``warn``, ``not applicable`` or ``not tested``."""
    expected: str
    seen: str
    reason: str
    """Why it is not applicable or was not tested; what a waiver is for."""
    waived: str
    """``expected``, ``expired``, ``stale``, or empty."""
    evidence: tuple[Evidence, ...] = ()


class Report(Struct, frozen=True, kw_only=True):
    """The whole report."""

    schema: str = SCHEMA
    version: int = VERSION
    agent: str = __version__
    time: str
    """When the run started: RFC 3339, UTC."""
    seed: str
    profile: str
    only: tuple[str, ...]
    os: str | None
    server: ServerFacts
    counts: dict[str, int]
    """Of all five verdicts."""
    complete: bool
    """Whether the run came to its end: it was not stopped, and its trace was not cut off."""
    exit_status: int
    """Of the command; of a run that a signal stopped, 128 and the number of the signal; 130 of a trace without end."""
    requirements: tuple[Entry, ...]
    whole: bool = True
    """Whether the trace has its end."""
    reached: bool = True
    """Whether Macs could enroll to the end of the run; also if none tried to."""

    def failures(self) -> list[Entry]:
        """What failed or warns."""
        return [each for each in self.requirements if each.verdict in ("fail", "warn")]

    def stale(self) -> list[Entry]:
        """Where a waiver expects a failure that did not happen."""
        return [each for each in self.requirements if each.waived == Waived.STALE]

    @property
    def summary(self) -> str:
        """The counts, as a phrase."""
        return ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())

    @property
    def conclusion(self) -> str:
        """What came out, as sentences: what the exit status means, and whether the run was stopped."""
        total, untested = len(self.requirements), self.counts["not tested"]
        left = f" Not tested: {untested} of {total}." if untested else ""
        broken = any(each.verdict == "fail" and each.waived != Waived.EXPECTED for each in self.requirements)
        meant = _CONCLUSIONS.get(self.exit_status, _CONCLUSIONS[int(broken)])  # of a signal: the verdicts so far
        if self.exit_status == 1 and not self.reached:
            meant = f"{meant} {_CONCLUSIONS[3]}"
        if self.complete:
            return f"{meant}{left}"
        return f"{_STOPPED if self.whole else _CUT} {meant}{left}"

    @property
    def unfinished(self) -> bool:
        """Whether the verdicts are not those of a run that came to its end and judged something."""
        return not self.complete or not self.reached or self.exit_status == 2

    @property
    def facts(self) -> str:
        """What the report is of and from, on one line."""
        parts = [f"lom-agent {self.agent}", f"seed {self.seed}", f"profile {self.profile}"]
        parts += [f"only {', '.join(self.only)}"] if self.only else []
        parts += [f"macOS {self.os}"] if self.os else []
        return ", ".join([*parts, self.time, f"{self.schema} {self.version}"])

    @property
    def software(self) -> str:
        """The server's software, as a sentence."""
        known = self.server.software
        return f"Server software: {known}." if known else "Server software: unknown; give it with --software."

    def as_json(self) -> bytes:
        """The document of ``--json``."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def report_of(trace: Trace, judgement: Judgement) -> Report:
    """The report of a trace and its verdicts."""
    header = trace.header
    records = {record.number: record for record in trace.records}
    server = ServerFacts(header.server.adapter, header.server.url, trace.software())
    return Report(
        agent=header.agent,
        time=datetime.fromtimestamp(header.started, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        seed=header.seed,
        profile=header.profile,
        only=header.only,
        os=header.os,
        server=server,
        counts=judgement.counts,
        complete=trace.complete,
        exit_status=judgement.exit_status if trace.complete else 128 + (trace.signal or SIGINT),
        requirements=tuple(_entry(each, records) for each in judgement.judged),
        whole=trace.whole,
        reached=judgement.reached,
    )


def _entry(judged: Judged, records: Mapping[int, Any]) -> Entry:
    requirement: Requirement = judged.requirement
    finding = judged.finding
    reason = finding.reason
    if judged.waiver is not None and judged.waived:
        waiver = " ".join(filter(None, (judged.waiver.reason, judged.waiver.issue)))
        reason = " ".join(filter(None, (reason, f"Waiver: {waiver}")))
    shown = [records[number] for number in finding.records[:MOST_EVIDENCE] if number in records]
    return Entry(
        requirement.id,
        requirement.level.value,
        requirement.says,
        str(requirement.source),
        judged.verdict.value,
        finding.expected,
        finding.seen,
        reason,
        judged.waived.value,
        tuple(_evidence(record) for record in shown),
    )


def _evidence(record: Any) -> Evidence:
    if isinstance(record, ExchangeRecord):
        what = record.message_type or " ".join(filter(None, (record.answer_status, record.request_type)))
        outcome = str(record.status) if record.status is not None else record.error or "no response"
        title = " ".join(filter(None, (record.method, record.url, what, record.command_uuid, "→", outcome)))
        return Evidence(record.number, title[:400], _body(record.request), _body(record.response))
    if isinstance(record, PushRecord):
        topic = record.topic or record.provider or "no topic"
        return Evidence(record.number, f"push to {record.udid or 'an unknown token'}, {topic} → {record.status}")
    if isinstance(record, TLSRecord):
        agreed = " ".join(filter(None, (record.version, record.cipher, record.error)))
        return Evidence(record.number, f"TLS handshake with {record.origin}, {record.says} → {agreed}")
    if isinstance(record, NoteRecord):
        what = " ".join(filter(None, (record.step, record.request_type, record.command_uuid, record.udid)))
        return Evidence(record.number, what, record.data or None)
    return Evidence(record.number, type(record).__name__)


def _body(body: Any) -> Any:
    if body.form == "empty":
        return None
    return body.value if body.value is not None else f"{body.length} bytes: {body.problem or body.form}"
