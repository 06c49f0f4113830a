"""The summary in Markdown, for the page of a CI job."""

from __future__ import annotations

from agent.conform.verdicts.document import Report
from agent.report.terminal.text import visible

_MOST_ROWS = 200
_ESCAPES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", **{each: f"\\{each}" for each in "\\`*_[]|#"}})


def markdown(report: Report) -> str:
    """The summary: the counts, and a row for each requirement that did not pass."""
    server = " ".join(filter(None, (report.server.adapter, report.server.url)))
    parts = [
        "## MDM conformance",
        "",
        f"**{_text(report.conclusion)}**",
        "",
        f"{_text(server)}; {_text(report.facts)}. {_text(report.software)}",
        "",
        "| " + " | ".join(report.counts) + " |",
        "| " + " | ".join("---:" for _ in report.counts) + " |",
        "| " + " | ".join(str(count) for count in report.counts.values()) + " |",
        "",
    ]
    rows = [each for each in report.requirements if each.verdict != "pass" or each.waived]
    if rows:
        parts += ["| verdict | id | requirement | found |", "| --- | --- | --- | --- |"]
    for each in rows[:_MOST_ROWS]:
        found = f"expected {each.expected}, seen {each.seen}" if each.expected else each.reason
        waived = f" ({each.waived})" if each.waived else ""
        parts.append(f"| {each.verdict}{waived} | `{each.id}` | {_text(each.says)} | {_text(found)} |")
    if len(rows) > _MOST_ROWS:
        parts.append(f"\n{len(rows) - _MOST_ROWS} more.")
    return "\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Text of a server or an operator, without the characters of Markdown and HTML."""
    return visible(" ".join(text.split())).translate(_ESCAPES)
