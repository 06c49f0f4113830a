"""Exchanges, events and rules as lines of text, for error messages and test reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from agent.faults.decisions import RuleCounts
from agent.service.types import Event, Exchange

_WIDTH = 160  # characters of a body in one line
_BODY_LINES = 12


def exchange_text(exchange: Exchange, indent: str = "") -> str:
    """One exchange: a line that says what it was, then the bodies."""
    what = exchange.message_type or exchange.answer_status or exchange.method
    subject = " ".join(part for part in (exchange.request_type, exchange.command_uuid) if part)
    outcome = exchange.error or (_without_status(exchange) if exchange.status is None else str(exchange.status))
    rules = f" [rules: {', '.join(exchange.rules)}]" if exchange.rules else ""
    head = f"{_time(exchange.at)} {exchange.kind} {what} {subject}".rstrip()
    lines = [f"{indent}#{exchange.number} {head} -> {outcome} ({exchange.seconds * 1000:.0f} ms)"]
    lines[0] += f" {exchange.url}{rules}" if exchange.url else rules
    for arrow, body in ((">", exchange.request), ("<", exchange.response)):
        if body not in (None, "", {}):
            lines += [f"{indent}  {arrow} {line}" for line in _body_lines(body)]
    return "\n".join(lines)


def event_text(event: Event) -> str:
    """One event in a line."""
    parts = [_time(event.at), event.kind, event.status, event.request_type, event.command_uuid, event.text]
    return f"#{event.number} " + " ".join(part for part in parts if part)


def rule_text(counts: RuleCounts) -> str:
    """One rule with its counts, in a line."""
    rule = counts.rule
    on = f"{rule.on} {rule.type}" if rule.type else rule.on
    return f"{rule.id}: {rule.do} on {on}: {counts.matches} matches, {counts.hits} hits"


def _without_status(exchange: Exchange) -> str:
    """The outcome of an exchange without an error: a push, and the LOM link, have no HTTP status."""
    if exchange.kind == "push":
        return "delivered"
    return "no answer" if exchange.response in (None, "", {}) else "answered"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def _body_lines(body: Any) -> list[str]:
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str, sort_keys=True)
    if len(text) > _WIDTH and not isinstance(body, str):
        text = json.dumps(body, ensure_ascii=False, default=str, sort_keys=True, indent=1)
    lines = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in text.splitlines()]
    if len(lines) > _BODY_LINES:
        return [*lines[:_BODY_LINES], f"… {len(lines) - _BODY_LINES} more lines"]
    return lines
