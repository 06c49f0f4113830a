"""What checks ask of the messages that a probe wrote, and of the sessions after them. No I/O.

A message says something about a server only where an ordinary one of the same Mac was accepted before: a server that
refuses everything has neither refused this message for what it is, nor failed to survive it.
"""

from __future__ import annotations

from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Finding, Outcome, failed, not_tested, passed

NOT_SENT = "The message could not be sent."


def answer_to(exchange: ExchangeRecord) -> str:
    """What the server answered, as a phrase."""
    return f"status {exchange.status}" if exchange.status is not None else exchange.error or "no answer"


def accepted(evidence: Evidence, says: str) -> Finding:
    """The messages with this word are answered with 200."""
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested(NOT_SENT)
    for each in sent:
        if each.status != 200:
            return unprepared(evidence, each) or failed("status 200", answer_to(each), each)
    return passed(*sent)


def refused(evidence: Evidence, says: str) -> Finding:
    """The messages with this word are refused: a status of 400 or above, or the server ends the connection.

    A server that is only too slow has refused nothing.
    """
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested(NOT_SENT)
    for each in sent:
        if each.status is not None and each.status < 400:
            return failed("a status of 400 or above, or no answer", answer_to(each), each)
    for each in sent:
        if each.status is None and evidence.notes("waited"):
            return not_tested("The server did not answer in time.", each)
        without = unprepared(evidence, each)
        if without is not None:
            return without
    return passed(*sent)


def refused_and_stays(evidence: Evidence, says: str) -> Finding:
    """The same, and the sessions after the last raw request are answered, so that nobody is unenrolled by it."""
    finding = refused(evidence, says)
    if finding.outcome is not Outcome.PASSED:
        return finding
    raw = evidence.exchanges("raw")
    return next_session(evidence, raw[-1], *(each for each in raw if each.message_type == says))


def unprepared(evidence: Evidence, sent: ExchangeRecord) -> Finding | None:
    """Not tested, where no ordinary message of this Mac was accepted before: a check-in, or a report."""
    check_in = "MessageType" in sent.request.dictionary
    before = evidence.exchanges("checkin" if check_in else "report", udid=sent.udid)
    if any(each.accepted and each.number < sent.number for each in before):
        return None
    what = "check-in message" if check_in else "report"
    return not_tested(f"The server did not accept an ordinary {what} of this Mac before, either.", *before, sent)


def next_session(evidence: Evidence, before: ExchangeRecord, *shown_by: ExchangeRecord) -> Finding:
    """The next session of each Mac after this exchange begins with an answer 200, as one before it did.

    ``shown_by`` are records that show the rest.
    """
    shown = shown_by or (before,)
    following: dict[str, ExchangeRecord] = {}
    for each in evidence.exchanges("report", answer_status="Idle", after=before.number):
        following.setdefault(each.udid, each)
    if not following:
        return not_tested("No session was opened afterwards.", before)
    for each in following.values():
        if each.status != 200:
            earlier = evidence.exchanges("report", udid=each.udid)
            if not any(one.status == 200 and one.number < before.number for one in earlier):
                return not_tested("The server did not accept a report of this Mac before, either.", *shown, each)
            return failed("status 200 in the next session", answer_to(each), *shown, each)
    return passed(*shown, *following.values())


def later_sessions(evidence: Evidence, answer: ExchangeRecord) -> Finding:
    """Passed if a session of this Mac was answered after this exchange: then what it did not bring is shown."""
    sessions = evidence.exchanges("report", udid=answer.udid, answer_status="Idle", after=answer.number)
    if any(each.status == 200 for each in sessions):
        return passed(answer, *sessions)
    return not_tested("No session was answered afterwards.", answer, *sessions)
