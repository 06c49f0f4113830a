"""Requirements of check-ins: enrollment, push tokens, CheckOut, bootstrap tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

from agent.conform.reading.sessions import accepted, answer_to, still_enrolled
from agent.conform.trace.bodies import Redacted
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed


def check_in_answered(evidence: Evidence, message_type: str) -> Finding:
    """Every check-in message of this type is answered with 200."""
    sent = evidence.exchanges("checkin", message_type=message_type)
    unsent = [each for each in sent if each.status is None and not each.http]
    if unsent:  # the Mac refused the server, or there was no connection
        return not_tested(f"{message_type} could not be sent: {unsent[0].error}.", *unsent)
    if not sent:
        return not_tested(f"No Mac sent {message_type}.")
    for each in sent:
        if each.status != 200:
            return failed("status 200", answer_to(each), each)
    return passed(*sent)


def nothing_after(evidence: Evidence, says: str) -> Finding:
    """No command and no push reaches a Mac after its check-in message with this word, and what is queued for another
    Mac arrives.
    """
    sent, finding = _tried(evidence, says)
    if sent is None:
        return finding
    commands = evidence.commands(udid=sent.udid, after=sent.number)
    if commands:
        return failed("no command for this Mac", commands[0].request_type or "a command", sent, *commands)
    return no_push_after(evidence, says)


def no_command_after(evidence: Evidence, says: str) -> Finding:
    """No command reaches a Mac after its check-in message with this word."""
    sent, finding = _tried(evidence, says)
    if sent is None:
        return finding
    reports = evidence.exchanges("raw", udid=sent.udid, after=sent.number)
    if not reports:
        return not_tested("The Mac sent no report afterwards.", sent)
    commands = evidence.commands(udid=sent.udid, after=sent.number)
    if commands:
        return failed("no command for this Mac", commands[0].request_type or "a command", sent, *commands)
    return passed(sent, *reports)


def no_push_after(evidence: Evidence, says: str) -> Finding:
    """No push is sent to a Mac after its check-in message with this word, but one is sent to another Mac."""
    sent, finding = _tried(evidence, says)
    if sent is None:
        return finding
    pushes = [each for each in evidence.pushes() if each.number > sent.number]
    own = [each for each in pushes if each.udid == sent.udid]
    if own:
        return failed("no push to this Mac", "a push", sent, *own)
    return passed(sent, *pushes) if pushes else not_tested("No push came to the gateway.", sent)


def _tried(evidence: Evidence, says: str) -> tuple[ExchangeRecord | None, Finding]:
    """The check-in message with this word, after which the server was asked to queue a command for this Mac."""
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return None, not_tested("The message could not be sent.")
    if sent[0].status is None or sent[0].status >= 300:
        return None, not_tested(f"The server did not accept it: {answer_to(sent[0])}.", sent[0])
    notes = [*evidence.notes("queued", sent[0].udid), *evidence.notes("refused", sent[0].udid)]
    if not notes:
        return None, not_tested("No command could be queued in the server.", sent[0])
    return sent[0], passed()


def token_set(evidence: Evidence) -> Finding:
    """SetBootstrapToken is answered with 200, also where it replaces a token."""
    first = check_in_answered(evidence, "SetBootstrapToken")
    return first if first.expected else accepted(evidence, "SetBootstrapToken")


def token_returned(evidence: Evidence) -> Finding:
    """GetBootstrapToken returns the token that was set last."""
    sets = evidence.exchanges("raw", message_type="SetBootstrapToken")
    gets = evidence.exchanges("raw", message_type="GetBootstrapToken")
    if not sets or not gets:
        return not_tested("The messages could not be sent.")
    token = sets[0].request.dictionary.get("BootstrapToken")
    if sets[0].status != 200:
        return not_tested("The server did not accept the bootstrap token.", sets[0])
    found = gets[0].response.dictionary.get("BootstrapToken")
    if gets[0].status != 200:
        return failed("status 200 with the bootstrap token", answer_to(gets[0]), sets[0], gets[0])
    if not isinstance(found, Redacted) or not isinstance(token, Redacted) or found.fingerprint != token.fingerprint:
        what = "no BootstrapToken" if found is None else "another BootstrapToken"
        return failed("the bootstrap token that was set last", what, sets[0], gets[0])
    return passed(sets[0], gets[0])


def token_removed(evidence: Evidence) -> Finding:
    """After SetBootstrapToken without a token, GetBootstrapToken returns none, though it returned one before."""
    before = evidence.exchanges("raw", message_type="GetBootstrapToken")
    clears = evidence.exchanges("raw", message_type="SetBootstrapToken without a token")
    gets = evidence.exchanges("raw", message_type="GetBootstrapToken without a token")
    if not clears or not gets:
        return not_tested("The messages could not be sent.")
    if clears[0].status != 200:
        return failed("status 200 for SetBootstrapToken without a token", answer_to(clears[0]), clears[0])
    found = gets[0].response.dictionary.get("BootstrapToken")
    if isinstance(found, Redacted) and found.length > 0:
        return failed("no bootstrap token, because the Mac removed it", "a BootstrapToken", clears[0], gets[0])
    if gets[0].status != 200:
        return not_tested(f"The server did not accept GetBootstrapToken: {answer_to(gets[0])}.", gets[0])
    if not any(isinstance(each.response.dictionary.get("BootstrapToken"), Redacted) for each in before):
        return not_tested("The server returned no bootstrap token before, either.", *before, gets[0])
    return passed(*before, clears[0], gets[0])


def unknown_message(evidence: Evidence) -> Finding:
    """A message of an unknown type is refused with a 4xx status, and the Mac stays enrolled."""
    sent = evidence.exchanges("raw", message_type="unknown message")
    if not sent:
        return not_tested("The message could not be sent.")
    status = sent[0].status
    if status is None or not 400 <= status < 500 or status == 401:
        return failed("a status from 400 to 499 other than 401", answer_to(sent[0]), sent[0])
    return still_enrolled(evidence, sent[0])


_AUTHENTICATE = "checkin/authenticate.yaml"
_UPDATE = "checkin/tokenupdate.yaml"
_SET = Source("checkin/setbootstraptoken.yaml", "BootstrapToken")
_GET = Source("checkin/getbootstraptoken.yaml", "BootstrapToken")


def _entry(number: int, level: Level, says: str, source: Source, probe: str, check: Any, *more: str) -> Requirement:
    id_ = f"MDM-CHECKIN-{number:02d}"
    if probe == "checkin-bootstrap":
        return Requirement(id_, level, says, source, ("mdm",), (probe,), check, needs="bootstraptoken")
    return Requirement(id_, level, says, source, ("lom", "mdm"), (probe, *more), check)


REQUIREMENTS = (
    _entry(
        1,
        Level.MUST,
        "A server must answer Authenticate with 200 where the Mac may enroll.",
        Source(_AUTHENTICATE, "notes"),
        "checkin-order",
        partial(check_in_answered, message_type="Authenticate"),
        "enrollment-two",
    ),
    _entry(
        2,
        Level.SHOULD,
        "A server should answer TokenUpdate with 200.",
        Source("RFC 9110", "15.3.1", "2022-06"),
        "checkin-order",
        partial(check_in_answered, message_type="TokenUpdate"),
    ),
    _entry(
        3,
        Level.MUST,
        "A server must answer CheckOut with 200.",
        Source("checkin/checkout.yaml", "notes"),
        "checkin-out",
        partial(accepted, says="CheckOut"),
    ),
    _entry(
        4,
        Level.MUST,
        "A server must not send commands or pushes to a Mac that has checked out.",
        Source("checkin/checkout.yaml", "description"),
        "checkin-out-quiet",
        partial(nothing_after, says="CheckOut"),
    ),
    _entry(
        5,
        Level.MUST,
        "A server must accept Authenticate and TokenUpdate with the required keys alone.",
        Source(_AUTHENTICATE, "payloadkeys, presence"),
        "checkin-keys",
        partial(accepted, says="required keys"),
    ),
    _entry(
        6,
        Level.MUST,
        "A server must accept a TokenUpdate that has the same values as the one before.",
        Source(_UPDATE, "notes"),
        "checkin-keys",
        partial(accepted, says="same token"),
    ),
    _entry(
        7,
        Level.SHOULD,
        "A server should not send a command to a Mac that has sent Authenticate and no TokenUpdate yet.",
        Source(_AUTHENTICATE, "notes"),
        "checkin-early",
        partial(no_command_after, says="Authenticate again"),
    ),
    _entry(
        8,
        Level.MUST,
        "A server must not push before the first TokenUpdate of an enrollment.",
        Source(_UPDATE, "notes"),
        "checkin-early",
        partial(no_push_after, says="Authenticate again"),
    ),
    _entry(
        9,
        Level.MUST,
        "A server with the capability com.apple.mdm.bootstraptoken must answer SetBootstrapToken with 200, also where "
        "the Mac replaces its token.",
        _SET,
        "checkin-bootstrap",
        token_set,
    ),
    _entry(
        10,
        Level.MUST,
        "A server must answer GetBootstrapToken with the bootstrap token that the Mac set last.",
        _GET,
        "checkin-bootstrap",
        token_returned,
    ),
    _entry(
        11,
        Level.MUST,
        "A server must answer GetBootstrapToken with 200 where it has no bootstrap token.",
        Source("checkin/getbootstraptoken.yaml", "notes"),
        "checkin-bootstrap",
        partial(accepted, says="GetBootstrapToken without a token"),
    ),
    _entry(
        12,
        Level.MUST,
        "A server must remove the bootstrap token where SetBootstrapToken has none.",
        _SET,
        "checkin-bootstrap",
        token_removed,
    ),
    _entry(
        13,
        Level.SHOULD,
        "A server should refuse a check-in message of an unknown MessageType with a 4xx status, and survive it.",
        Source("RFC 9110", "15.5.1", "2022-06"),
        "checkin-unknown",
        unknown_message,
    ),
    _entry(
        14,
        Level.SHOULD,
        "A server should accept Authenticate and TokenUpdate with keys that it does not know, because releases add "
        "keys.",
        Source(_AUTHENTICATE, "payloadkeys, supportedOS introduced"),
        "checkin-keys",
        partial(accepted, says="unknown keys"),
    ),
)
