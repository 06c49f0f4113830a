"""What checks ask of the raw requests that a probe sent, and of the sessions after them. No I/O."""

from __future__ import annotations

from agent.conform.evidence import Evidence
from agent.conform.requirement import Finding, failed, not_tested, passed
from agent.conform.trace import ExchangeRecord

_NOT_SENT = "The message could not be sent."


def seen(exchange: ExchangeRecord) -> str:
    """The answer to a request, as a phrase."""
    return f"status {exchange.status}" if exchange.status is not None else exchange.error or "no answer"


def accepted(evidence: Evidence, says: str) -> Finding:
    """The messages with this word are answered with 200."""
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested(_NOT_SENT)
    for each in sent:
        if each.status != 200:
            return failed("status 200", seen(each), each)
    return passed(*sent)


def refused(evidence: Evidence, says: str) -> Finding:
    """The messages with this word are refused: a status of 400 or above, or the server ends the connection.

    A server that is only too slow has refused nothing.
    """
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested(_NOT_SENT)
    for each in sent:
        if each.status is None and evidence.notes("waited"):
            return not_tested("The server did not answer in time.", each)
        if each.status is not None and each.status < 400:
            return failed("a status of 400 or above, or no answer", seen(each), each)
    return passed(*sent)


def refused_and_stays(evidence: Evidence, says: str) -> Finding:
    """The same, and each session after the last raw request is answered, so that nobody is unenrolled by it."""
    finding = refused(evidence, says)
    raw = evidence.exchanges("raw")
    sent = [each for each in raw if each.message_type == says]
    if not sent or finding.expected or finding.reason:
        return finding
    return next_session(evidence, raw[-1], *sent)


def next_session(evidence: Evidence, before: ExchangeRecord, *shown_by: ExchangeRecord) -> Finding:
    """Every session after this exchange begins with an answer 200; ``shown_by`` are records that show the rest."""
    sessions = evidence.exchanges("report", answer_status="Idle", after=before.number)
    if not sessions:
        return not_tested("No session was opened afterwards.", before)
    for each in sessions:
        if each.status != 200:
            return failed("status 200 in the next session", seen(each), *(shown_by or (before,)), each)
    return passed(*(shown_by or (before,)), *sessions)
