"""Requirements of sessions: commands, their results, and what a server must survive."""

from __future__ import annotations

from functools import partial
from typing import Any

from agent.conform.reading.sessions import answer_to, later_sessions, still_enrolled, unprepared
from agent.conform.trace.evidence import Evidence
from agent.conform.verdicts.requirement import Finding, Level, Outcome, Requirement, Source, failed, not_tested, passed

_REFERENCE = "Apple Mobile Device Management Protocol Reference"
_XML = ("application/xml", "text/xml", "application/x-apple-aspen-mdm")
_UNREACHED = "The server accepted no command for the Mac, or sent none."


def empty_answer_ends(evidence: Evidence) -> Finding:
    """A report is answered with a command of the server's own, or with 200 and an empty body."""
    reports = evidence.exchanges("report")
    if not reports:
        return not_tested("No Mac opened a session.")
    commands = {each.number for each in evidence.commands()}
    ended = [each for each in reports if each.number not in commands]
    for each in ended:
        if each.status != 200 or each.response.form != "empty":
            seen = f"status {each.status}" if each.status != 200 else f"a body of {each.response.length} bytes"
            return failed("status 200 with an empty body, or with a command", each.error or seen, each)
    return passed(*ended) if ended else not_tested("The server sent commands of its own in every answer.", *reports)


def content_type(evidence: Evidence) -> Finding:
    """A command comes as XML, or as Apple's media type."""
    commands = evidence.commands()
    if not commands:
        return not_tested(_UNREACHED)
    for each in commands:
        if each.exchange.content_type not in _XML:
            found = each.exchange.content_type or "no Content-Type"
            return failed(f"a command with the Content-Type {' or '.join(_XML)}", found, each)
    return passed(*commands)


def delivered(evidence: Evidence) -> Finding:
    """A queued command reaches the Mac in a session after that, with its CommandUUID and RequestType."""
    queued = evidence.notes("queued")
    if not queued:
        return not_tested("Nothing could be queued in the server.")
    for note in queued:
        sent = evidence.commands(udid=note.udid, command_uuid=note.command_uuid or None)
        sessions = evidence.exchanges("report", udid=note.udid, answer_status="Idle", after=note.number)
        if not sent and not sessions:
            return not_tested("No session was opened after the command was queued.", note)
        if not sent:
            return failed(
                f"{note.request_type} with the CommandUUID {note.command_uuid}, which is queued",
                "sessions that ended without it",
                note,
                *sessions,
            )
        if sent[0].request_type != note.request_type:
            return failed(f"RequestType {note.request_type}", sent[0].request_type or "none", sent[0])
        begun = [each for each in sessions if each.at >= note.at]  # not before the command was queued
        if len(begun) > 1 and begun[0].status == 200 and sent[0].number >= begun[1].number:
            return failed(f"{note.request_type} in the next session", "it in a later session", note, begun[0], sent[0])
    return passed(*evidence.commands())


def not_again(evidence: Evidence) -> Finding:
    """A command is not sent again after its result was accepted."""
    results = [each for each in evidence.results() if each.answer_status == "Acknowledged" and each.status == 200]
    if not results:
        return not_tested(_UNREACHED)
    for result in results:
        again = evidence.commands(udid=result.udid, command_uuid=result.command_uuid, after=result.number - 1)
        if again:
            return failed("another command or an empty answer", "the command that was answered", result, *again)
        later = later_sessions(evidence, result)
        if later.outcome is not Outcome.PASSED:
            return later
    return passed(*results)


def not_now_ends(evidence: Evidence) -> Finding:
    """After NotNow the same command is not sent again in the same session."""
    refusals = evidence.results()
    refusals = [each for each in refusals if each.answer_status == "NotNow" and each.status == 200]
    if not refusals:
        return not_tested(_UNREACHED)
    for each in refusals:
        at_once = evidence.commands(command_uuid=each.command_uuid, udid=each.udid, after=each.number - 1)
        if at_once and at_once[0].number == each.number:
            return failed("another command or an empty answer to NotNow", "the same command", each)
    return passed(*refusals)


def not_now_again(evidence: Evidence) -> Finding:
    """After NotNow the command is sent again in a later session."""
    refusals = [each for each in evidence.results() if each.answer_status == "NotNow" and each.status == 200]
    if not refusals:
        return not_tested(_UNREACHED)
    first = refusals[0]
    again = evidence.commands(command_uuid=first.command_uuid, udid=first.udid, after=first.number - 1)
    if again:
        return passed(first, *again)
    sessions = evidence.exchanges("report", udid=first.udid, answer_status="Idle", after=first.number)
    if not sessions:
        return not_tested("No session was opened after NotNow.", first)
    return failed("the command again in a later session", "a session that ended without it", first, *sessions)


def _accepted(evidence: Evidence, status: str) -> Finding:
    """A result with this status is accepted, ends its command, and the Mac stays enrolled."""
    results = [each for each in evidence.results() if each.answer_status == status]
    if not results:
        return not_tested(_UNREACHED)
    first = results[0]
    if first.status != 200:
        return failed(f"status 200 for a result with {status}", answer_to(first), first)
    again = evidence.commands(command_uuid=first.command_uuid, udid=first.udid, after=first.number - 1)
    if again:
        return failed(f"{status} to end the command", "the same command again", first, *again)
    return still_enrolled(evidence, first)


def error_survived(evidence: Evidence) -> Finding:
    """The same, of Error."""
    return _accepted(evidence, "Error")


def format_error_survived(evidence: Evidence) -> Finding:
    """The same, of CommandFormatError."""
    return _accepted(evidence, "CommandFormatError")


def second_result(evidence: Evidence) -> Finding:
    """A result that is delivered again after a broken connection is accepted."""
    results = evidence.results()
    broken = [each for each in results if each.status is None and each.rules]
    if not broken:
        return not_tested("No connection was broken while a result was answered.")
    again = [each for each in results if each.command_uuid == broken[0].command_uuid and each.number > broken[0].number]
    if not again:
        return not_tested("The Mac did not deliver the result again.", broken[0])
    if again[0].status != 200:
        return failed("status 200 for a result that is delivered again", answer_to(again[0]), broken[0], again[0])
    return passed(broken[0], again[0])


def survived(evidence: Evidence, says: str) -> Finding:
    """The raw report with this word is no failure of the server, and does not end the enrollment."""
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested("The report could not be sent.")
    status = sent[0].status
    if status is None or status >= 500 or status == 401:
        seen = failed("an answer that is neither 401 nor 500 and above", answer_to(sent[0]), sent[0])
        return unprepared(evidence, sent[0]) or seen
    return still_enrolled(evidence, sent[0])


def _entry(id_: str, level: Level, says: str, source: Source, probe: str, check: Any) -> Requirement:
    return Requirement(id_, level, says, source, ("lom", "mdm"), (probe,), check)


_MESSAGES = Source(_REFERENCE, "MDM Protocol, Structure of MDM Messages", "2019-03-25")
_DEQUEUEING = Source(_REFERENCE, "MDM Best Practices, Dequeueing Commands", "2019-03-25")
_RESULT = Source(_REFERENCE, "MDM Protocol, MDM Result Payloads", "2019-03-25")
_NOT_NOW = Source(_REFERENCE, "MDM Protocol, Handling a NotNow Response", "2019-03-25")
REQUIREMENTS = (
    _entry(
        "MDM-SESSION-01",
        Level.MUST,
        "A server must answer a report with 200 and an empty body where it has no command for the Mac.",
        _MESSAGES,
        "session-quiet",
        empty_answer_ends,
    ),
    _entry(
        "MDM-SESSION-02",
        Level.SHOULD,
        "A command should have the Content-Type application/xml, text/xml or application/x-apple-aspen-mdm.",
        Source("RFC 9110", "8.3", "2022-06"),
        "session-once",
        content_type,
    ),
    _entry(
        "MDM-SESSION-03",
        Level.MUST,
        "A server must send a queued command in the next session, with its CommandUUID and RequestType.",
        _MESSAGES,
        "session-delivery",
        delivered,
    ),
    _entry(
        "MDM-SESSION-04",
        Level.MUST,
        "A server must not send a command again after it has accepted the result.",
        _DEQUEUEING,
        "session-once",
        not_again,
    ),
    _entry(
        "MDM-SESSION-05",
        Level.MUST,
        "A server must not send a command again in the session in which the Mac answered NotNow to it.",
        _NOT_NOW,
        "session-not-now",
        not_now_ends,
    ),
    _entry(
        "MDM-SESSION-06",
        Level.MUST,
        "A server must send a command again in a later session after the Mac answered NotNow.",
        _NOT_NOW,
        "session-not-now",
        not_now_again,
    ),
    _entry(
        "MDM-SESSION-07",
        Level.MUST,
        "A server must accept a result with the Status Error, and end the command.",
        _RESULT,
        "session-error",
        error_survived,
    ),
    _entry(
        "MDM-SESSION-08",
        Level.MUST,
        "A server must accept a result with the Status CommandFormatError, and end the command.",
        _RESULT,
        "session-format-error",
        format_error_survived,
    ),
    _entry(
        "MDM-SESSION-09",
        Level.MUST,
        "A server must accept a result that a Mac delivers again because the connection broke before the answer.",
        _DEQUEUEING,
        "session-second-result",
        second_result,
    ),
    _entry(
        "MDM-SESSION-10",
        Level.MUST,
        "A server must survive the result of a command that it does not know.",
        _DEQUEUEING,
        "session-unknown-result",
        partial(survived, says="unknown command"),
    ),
    _entry(
        "MDM-SESSION-11",
        Level.MUST,
        "A server must survive a report that is not a property list.",
        Source("RFC 9110", "15.5.1 and 15.6", "2022-06"),
        "session-malformed",
        partial(survived, says="malformed"),
    ),
)
