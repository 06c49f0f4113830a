"""Requirements of what a server must survive: connections that break, and unusual or wrong bodies."""

from __future__ import annotations

from agent.conform.probes.survive import BARE, EARLY, EMPTY, HALF, LONG, PARAMETER, STATUS, TYPES, UPPER, XML
from agent.conform.reading.sessions import NOT_SENT, answer_to, next_session, still_enrolled, unprepared
from agent.conform.stage.http2_resets import RESET
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import (
    Check,
    Finding,
    Level,
    Outcome,
    Requirement,
    Source,
    failed,
    not_tested,
    passed,
)


def _broken(evidence: Evidence) -> ExchangeRecord | None:
    """The first report whose connection a rule reset."""
    reports = evidence.exchanges("report", answer_status="Idle")
    return next((each for each in reports if each.status is None and each.rules), None)


def after_broken(evidence: Evidence) -> Finding:
    """The Mac whose connection broke stays enrolled."""
    broken = _broken(evidence)
    return not_tested("No connection was broken.") if broken is None else still_enrolled(evidence, broken)


def command_kept(evidence: Evidence) -> Finding:
    """A command is sent again after the connection broke on which it was sent."""
    broken, queued = _broken(evidence), evidence.notes("queued")
    if broken is None or not queued:
        return not_tested("No connection was broken on which a command was due.")
    session = next_session(evidence, broken)
    if session.outcome is not Outcome.PASSED:
        return session
    sent = evidence.commands(udid=broken.udid, command_uuid=queued[0].command_uuid or None)
    if sent:
        return passed(broken, *sent)
    later = evidence.exchanges("report", udid=broken.udid, answer_status="Idle", after=broken.number)
    return failed("the command, which no Mac has got", "a session that ended without it", queued[0], broken, *later)


def _raw(evidence: Evidence, says: str) -> ExchangeRecord | None:
    return next(iter(evidence.exchanges("raw", message_type=says)), None)


def long_report(evidence: Evidence) -> Finding:
    """A body that is too long is refused with a 4xx status, or the connection is closed, and the Mac stays enrolled."""
    sent = _raw(evidence, LONG)
    if sent is None:
        return not_tested(NOT_SENT)
    if sent.status is not None and (sent.status >= 500 or sent.status == 401):
        wanted = "status 413, another from 400 to 499 except 401, or 200"
        return unprepared(evidence, sent) or failed(wanted, answer_to(sent), sent)
    if sent.status is not None and sent.status < 400:
        return not_tested(f"The server accepted a report of {sent.request.length:,} bytes: its limit is higher.", sent)
    return still_enrolled(evidence, sent)


def http2_reset(evidence: Evidence) -> Finding:
    """The Mac stays enrolled whose request over HTTP/2 was reset in the middle."""
    sent = _raw(evidence, HALF)
    if sent is None:
        return not_tested(NOT_SENT)
    if sent.error != RESET:
        return not_tested(f"No request could be reset: {sent.error}.", sent)
    return still_enrolled(evidence, sent)


def _accepted(*words: str) -> Check:
    """The check that these raw messages are answered with 200, and that the Mac stays enrolled."""

    def check(evidence: Evidence) -> Finding:
        last = None
        for says in words:
            last = _raw(evidence, says)
            if last is None:
                return not_tested(NOT_SENT)
            if last.status != 200:
                return unprepared(evidence, last) or failed(f"status 200 ({says})", answer_to(last), last)
        return not_tested(NOT_SENT) if last is None else still_enrolled(evidence, last)

    return check


def _survived(says: str) -> Check:
    """The check that this raw message is answered with neither 401 nor 5xx, and that the Mac stays enrolled."""

    def check(evidence: Evidence) -> Finding:
        sent = _raw(evidence, says)
        if sent is None:
            return not_tested(NOT_SENT)
        if sent.status is None or sent.status >= 500 or sent.status == 401:
            wanted = "an answer that is neither 401 nor 500 and above"
            return unprepared(evidence, sent) or failed(wanted, answer_to(sent), sent)
        return still_enrolled(evidence, sent)

    return check


def _entry(
    number: int, level: Level, says: str, source: Source, check: Check, probe: str, *, needs: str | None = None
) -> Requirement:
    return Requirement(f"MDM-SURVIVE-{number:02}", level, says, source, ("lom", "mdm"), (probe,), check, needs)


_BROKEN = Source("RFC 9112", "9.3.1", "2022-06")
_RESULT = Source("Apple Mobile Device Management Protocol Reference", "MDM Protocol, MDM Result Payloads", "2019-03-25")
_BAD_REQUEST = Source("RFC 9110", "15.5.1 and 15.6", "2022-06")
_WRONG = "survive-wrong-reports"
REQUIREMENTS = (
    _entry(
        1,
        Level.MUST,
        "A server must survive a connection that breaks before the first request.",
        _BROKEN,
        after_broken,
        "survive-before-request",
    ),
    _entry(
        2,
        Level.MUST,
        "A server must survive a connection that breaks in the middle of a request.",
        Source("RFC 9112", "8", "2022-06"),
        after_broken,
        "survive-in-request",
    ),
    _entry(
        3,
        Level.MUST,
        "A server must send a command again in the next session if the connection broke when it sent it.",
        Source("Apple Device Management, Sending MDM Commands to a Device", "Overview", ""),
        command_kept,
        "survive-in-response",
    ),
    _entry(
        4,
        Level.SHOULD,
        "A server should refuse a report that is longer than its limit with 413 or another 4xx status, and survive it.",
        Source("RFC 9110", "15.5.14", "2022-06"),
        long_report,
        "survive-long",
    ),
    _entry(
        5,
        Level.MUST,
        "A server must read the Content-Type of a report in any case, and with parameters.",
        Source("RFC 9110", "8.3.1", "2022-06"),
        _accepted(UPPER, PARAMETER),
        "survive-content-type",
    ),
    _entry(
        6,
        Level.SHOULD,
        "A server should read XML with a byte order mark, a comment and character references.",
        Source("Extensible Markup Language (XML) 1.0", "2.5, 4.1 and 4.3.3", "2008-11-26"),
        _accepted(XML),
        "survive-xml",
    ),
    _entry(
        7,
        Level.MUST,
        "A server must survive a result of DeviceInformation with none of the values that it asked for.",
        Source("commands/information.device.yaml", "QueryResponses: its keys are optional"),
        _survived(BARE),
        "survive-bare-result",
    ),
    _entry(
        8,
        Level.MUST,
        "A server must survive a report with an unknown Status.",
        _RESULT,
        _survived(STATUS),
        _WRONG,
    ),
    _entry(
        9,
        Level.MUST,
        "A server must survive a report whose Status and CommandUUID are not strings.",
        _BAD_REQUEST,
        _survived(TYPES),
        _WRONG,
    ),
    _entry(
        10,
        Level.MUST,
        "A server must survive a report with an empty body.",
        _BAD_REQUEST,
        _survived(EMPTY),
        _WRONG,
    ),
    _entry(
        11,
        Level.MUST,
        "A server that speaks HTTP/2 must survive a request whose stream is reset in the middle.",
        Source("RFC 9113", "5.4.2 and 8.1", "2022-06"),
        http2_reset,
        "survive-http2-reset",
        needs="http2",
    ),
    _entry(
        12,
        Level.MUST,
        "A server must survive a report that comes before TokenUpdate.",
        Source("checkin/tokenupdate.yaml", "notes"),
        _survived(EARLY),
        "survive-early",
    ),
)
