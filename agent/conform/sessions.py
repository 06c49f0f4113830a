"""What the checks of sessions share: how the server answered, and whether the next session works. No I/O."""

from __future__ import annotations

from agent.conform.evidence import Evidence
from agent.conform.requirement import Finding, failed, not_tested, passed
from agent.conform.trace import ExchangeRecord


def answer_to(exchange: ExchangeRecord) -> str:
    """What the server answered, as a phrase."""
    return f"status {exchange.status}" if exchange.status is not None else exchange.error or "no answer"


def next_session(evidence: Evidence, before: ExchangeRecord) -> Finding:
    """Whether a session after this exchange is answered."""
    sessions = evidence.exchanges("report", udid=before.udid, answer_status="Idle", after=before.number)
    if not sessions:
        return not_tested("No session was opened afterwards.", before)
    if sessions[0].status != 200:
        return failed("status 200 in the next session", answer_to(sessions[0]), before, sessions[0])
    return passed(before, sessions[0])
