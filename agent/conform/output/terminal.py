"""The report for the terminal: one line for each requirement that did not pass, failures with what shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agent.conform.verdicts.document import Entry, Evidence, Report
from agent.report.numbers import counted
from agent.report.terminal.text import visible

_MOST_BODY = 1200  # characters of a body
_INDENT = " " * 6


def lines(report: Report, *, every: bool = False) -> Iterator[str]:
    """The lines; with ``every``, also those of requirements that passed."""
    yield visible(f"lom-agent conform, {report.server.adapter} {report.server.url}".rstrip())
    yield visible(report.facts)
    yield visible(report.software)
    yield ""
    for entry in report.requirements:
        if every or entry.verdict != "pass" or entry.waived:
            yield from entry_lines(entry)
    for entry in report.stale():
        yield f"{entry.id} passed, but a waiver expects it to fail. Remove the waiver."
    yield f"{counted(len(report.requirements), 'requirement')}: {report.summary}."
    yield report.conclusion


def entry_lines(entry: Entry) -> Iterator[str]:
    """One requirement: its verdict, and what shows a failure."""
    waived = f" ({entry.waived})" if entry.waived else ""
    yield f"{entry.verdict.upper():15}{entry.id}{waived}  {entry.says}"
    if entry.verdict in ("fail", "warn"):
        yield f"{_INDENT}source:   {entry.source}"
        yield f"{_INDENT}expected: {visible(entry.expected)}"
        yield f"{_INDENT}seen:     {visible(entry.seen)}"
        for each in entry.evidence:
            yield from _evidence(each)
    if entry.reason:
        yield f"{_INDENT}{visible(entry.reason)}"


def _evidence(evidence: Evidence) -> Iterator[str]:
    yield f"{_INDENT}record {evidence.number}: {visible(evidence.title)}"
    for name, body in (("sent", evidence.sent), ("answered", evidence.answered)):
        if body is not None:
            yield f"{_INDENT}  {name}: {_short(body)}"


def _short(body: Any) -> str:
    text = visible(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False))
    return text if len(text) <= _MOST_BODY else f"{text[:_MOST_BODY]}… {len(text) - _MOST_BODY:,} more characters"
