"""What checks ask of the messages that a probe wrote, and of the sessions after them. No I/O.

A message says something about a server only where an ordinary one of the same Mac was accepted before: a server that
refuses everything has neither refused this message for what it is, nor failed to survive it.
"""

from __future__ import annotations

from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Finding, Outcome, failed, not_tested, passed

NOT_SENT = "The message could not be sent."
NOT_QUEUED = "not queued"  # of the note that says why no command could be queued to show that a Mac is enrolled
_NOT_SHOWN = "Only a command could show that the Mac is still enrolled"
_ERROR = "The server answered {answer}, and nothing shows whether that is a refusal, or an error after it acted."
_NOT_NOW = (408, 425, 429, 502, 503, 504)  # the server, or a proxy before it, had no time for the request


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
    """The messages with this word are refused: a status from 400 to 499, or the server ends the connection.

    A server that is too slow or too busy has refused nothing. Another status of 500 or above may be an error after the
    message had its effect: it is a refusal only if what comes later shows that it had none.
    """
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested(NOT_SENT)
    for each in sent:
        if each.status is not None and each.status < 400:
            return failed("a status from 400 to 499, or no answer", answer_to(each), each)
    for each in sent:
        if each.status is None and evidence.notes("waited"):
            return not_tested("The server did not answer in time.", each)
        if each.status in _NOT_NOW:
            return not_tested(f"The server did not process the message: {answer_to(each)}.", each)
        without = unprepared(evidence, each)
        if without is not None:
            return without
        if each.status is not None and each.status >= 500 and not _without_effect(evidence, each):
            return not_tested(_ERROR.format(answer=answer_to(each)), each)
    return passed(*sent)


def _without_effect(evidence: Evidence, sent: ExchangeRecord) -> bool:
    """Whether what comes after a message shows that the server did not act on it.

    The Mac that it names still gets its commands, and after a TokenUpdate its pushes. Of Authenticate nothing shows it.
    """
    message = sent.request.dictionary
    udid, message_type = str(message.get("UDID", "")), message.get("MessageType")
    if message_type == "Authenticate" or served(evidence, udid, sent).outcome is not Outcome.PASSED:
        return False
    pushed = [each.udid for each in evidence.pushes() if each.number > sent.number and each.status == 200]
    return message_type != "TokenUpdate" or udid in pushed


def refused_and_stays(evidence: Evidence, says: str) -> Finding:
    """The same, and nobody is unenrolled by it, as far as that is shown: the requirement is the refusal."""
    finding = refused(evidence, says)
    if finding.outcome is not Outcome.PASSED:
        return finding
    raw = evidence.exchanges("raw")
    sent = [each for each in raw if each.message_type == says]
    stays = still_enrolled(evidence, raw[-1], *sent)
    return next_session(evidence, raw[-1], *sent) if stays.outcome is Outcome.NOT_TESTED else stays


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


def still_enrolled(evidence: Evidence, before: ExchangeRecord, *shown_by: ExchangeRecord) -> Finding:
    """The same, and then each Mac for which a command was to be queued after this exchange got it.

    That a report is answered with 200 does not show that the Mac is enrolled: a server may answer so to any Mac. That
    it sends the Mac a command which was queued for it does.
    """
    session = next_session(evidence, before, *shown_by)
    if session.outcome is not Outcome.PASSED:
        return session
    notes = [each for step in ("queued", NOT_QUEUED) for each in evidence.notes(step) if each.number > before.number]
    records = session.records
    for udid in dict.fromkeys(each.udid for each in notes):
        command = served(evidence, udid, before)
        if command.outcome is not Outcome.PASSED:
            return command
        records += command.records
    if not notes:
        return not_tested(f"{_NOT_SHOWN}: none was queued for it afterwards.", *shown_by, before)
    return Finding(Outcome.PASSED, records=tuple(dict.fromkeys(records)))


def served(evidence: Evidence, udid: str, before: ExchangeRecord) -> Finding:
    """The command that was queued for this Mac after this exchange, the first one, reached it in a session."""
    notes = [each for each in evidence.notes("queued", udid) if each.number > before.number]
    if not notes:
        why = [str(each.data.get("reason", "")) for each in evidence.notes(NOT_QUEUED, udid)]
        return not_tested(f"{_NOT_SHOWN}. {why[-1]}" if why else f"{_NOT_SHOWN}: none was queued for it.", before)
    note = notes[0]
    commands = evidence.commands(
        note.request_type, udid=udid, command_uuid=note.command_uuid or None, after=before.number
    )
    got = [each for each in commands if each.exchange.kind == "report"]
    if got:
        return passed(before, note, got[0])
    sessions = evidence.exchanges("report", udid=udid, answer_status="Idle", after=note.number)
    if not any(each.status == 200 for each in sessions):
        return not_tested("No session was answered after a command was queued.", before, note, *sessions)
    wanted = "the command that was queued afterwards for this Mac, which is enrolled"
    return failed(wanted, "sessions that ended without it", before, note, *sessions)


def later_sessions(evidence: Evidence, answer: ExchangeRecord) -> Finding:
    """Passed if a session of this Mac was answered after this exchange: then what it did not bring is shown."""
    sessions = evidence.exchanges("report", udid=answer.udid, answer_status="Idle", after=answer.number)
    if any(each.status == 200 for each in sessions):
        return passed(answer, *sessions)
    return not_tested("No session was answered afterwards.", answer, *sessions)
