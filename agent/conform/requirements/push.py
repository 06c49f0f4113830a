"""Requirements of pushes, judged over what the gateway got."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.conform.probes.push import ASKED, BACK
from agent.conform.trace.bodies import Redacted
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, PushRecord
from agent.conform.verdicts.requirement import Check, Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.push.reasons import Reason
from agent.push.requests import MAX_PAYLOAD_BYTES

_NONE = "The server sent no push."
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SECONDS = re.compile(r"[0-9]{1,15}")
_PRIORITIES = ("10", "5", "1")
_MOST_PUSHES = 5  # ours, for one command: Apple says that several are safe


def sent(evidence: Evidence) -> Finding:
    """A push follows a queued command."""
    for asked in evidence.notes(ASKED):
        pushes = [each for each in evidence.pushes() if each.number > asked.number]
        queued = evidence.notes("queued", asked.udid)
        if queued and not pushes:
            return failed("a push for the Mac whose command was queued", "none", *queued)
        if pushes:
            return passed(*pushes)
    return not_tested("Nothing could be queued in the server.", *evidence.notes("refused"))


def magic(evidence: Evidence) -> Finding:
    """The payload has the PushMagic of the last TokenUpdate."""
    return _of_last_update(evidence, "PushMagic", lambda push: push.magic)


def token(evidence: Evidence) -> Finding:
    """The path has the push token of the last TokenUpdate."""
    unknown = [each for each in _complete(evidence) if not each.udid]
    if unknown and evidence.exchanges("checkin", message_type="TokenUpdate"):
        return failed("the Token of a TokenUpdate", "one that no Mac has sent", unknown[0])
    return _of_last_update(evidence, "Token", lambda push: push.token)


def _of_last_update(evidence: Evidence, key: str, of: Callable[[PushRecord], str]) -> Finding:
    shown: list[PushRecord | ExchangeRecord] = []
    for mac in evidence.macs:
        pushes = _complete(evidence, mac.udid)
        updates = [each for each in _token_updates(evidence, mac.udid) if pushes and each.number < pushes[-1].number]
        if not updates:
            continue
        wanted = updates[-1].request.dictionary.get(key)
        if not isinstance(wanted, Redacted) or of(pushes[-1]) != wanted.fingerprint:
            return failed(f"the {key} of the last TokenUpdate", "another one", updates[-1], pushes[-1])
        shown += (updates[-1], pushes[-1])
    if not any(isinstance(each, ExchangeRecord) and each.kind == "raw" for each in shown):
        return not_tested("No push followed a second TokenUpdate that the server accepted.", *shown)
    return passed(*shown)


def _token_updates(evidence: Evidence, udid: str) -> list[ExchangeRecord]:
    """Those that the server accepted."""
    sent = evidence.exchanges("checkin", "raw", udid=udid)
    return [each for each in sent if each.status == 200 and each.request.dictionary.get("MessageType") == "TokenUpdate"]


def _complete(evidence: Evidence, udid: str | None = None) -> list[PushRecord]:
    """The pushes whose payload is known: the gateway does not keep one that is too long."""
    return [each for each in evidence.pushes(udid) if not _too_long(each)]


def _too_long(push: PushRecord) -> bool:
    return push.length > MAX_PAYLOAD_BYTES or push.reason == Reason.PAYLOAD_TOO_LARGE.word


def _each(judged: Callable[[PushRecord], str], expected: str) -> Check:
    """The check that each push is as ``expected``; ``judged`` returns what is seen instead, or an empty text."""

    def check(evidence: Evidence) -> Finding:
        pushes = _complete(evidence)
        for push in pushes:
            seen = judged(push)
            if seen:
                return failed(expected, seen, push)
        return passed(*pushes) if pushes else not_tested(_NONE)

    return check


def _other_keys(push: PushRecord) -> str:
    others = [key for key in push.keys if key != "mdm"]
    return "" if push.keys and not others else f"the keys {', '.join(push.keys) or 'of none'}"


def _no_topic(push: PushRecord) -> str:
    return "none" if push.topic is None else ""


def _push_type(push: PushRecord) -> str:
    return "" if push.push_type == "mdm" else push.push_type or "none"


def _priority(push: PushRecord) -> str:
    return "" if push.priority is None or push.priority in _PRIORITIES else push.priority or "an empty value"


def _apns_id(push: PushRecord) -> str:
    return "" if push.apns_id is None or _UUID.fullmatch(push.apns_id) else push.apns_id or "an empty value"


def _expiration(push: PushRecord) -> str:
    value = push.expiration
    if value is None or (_SECONDS.fullmatch(value) and int(value) > push.at):
        return ""
    return value or "an empty value"


def topic(evidence: Evidence) -> Finding:
    """The topic of a push is that of the enrollment."""
    pushes = _complete(evidence)
    for push in pushes:
        updates = _token_updates(evidence, push.udid)
        wanted = updates[-1].request.dictionary.get("Topic") if updates else None
        if wanted is None:
            return not_tested("The push is for no Mac that has sent a TokenUpdate.", push)
        found = push.provider if push.topic is None else push.topic
        if found != wanted:
            return failed(f"the topic {wanted} of the enrollment", found or "none", push, updates[-1])
    return passed(*pushes) if pushes else not_tested(_NONE)


def payload_length(evidence: Evidence) -> Finding:
    """The payload has at most 4,096 bytes."""
    pushes = evidence.pushes()
    for push in pushes:
        if _too_long(push):
            return failed(f"a payload of at most {MAX_PAYLOAD_BYTES:,} bytes", "a longer one", push)
    return passed(*pushes) if pushes else not_tested(_NONE)


def no_storm(evidence: Evidence) -> Finding:
    """Few pushes for each command."""
    asked = evidence.notes(ASKED)
    if not asked or not evidence.pushes():
        return not_tested(_NONE)
    pushes = [each for each in evidence.pushes(asked[0].udid) if each.number > asked[0].number]
    commands = {each.command_uuid for each in evidence.commands(udid=asked[0].udid, after=asked[0].number)}
    most = _MOST_PUSHES * max(1, len(commands))
    if len(pushes) > most:
        return failed(f"at most {most} pushes", f"{len(pushes)} pushes", *pushes)
    return passed(*pushes) if pushes else not_tested(_NONE)


def _again_after(status: int, what: str) -> Check:
    """The check that a token is used again after a push with this status; 0: its connection broke."""

    def check(evidence: Evidence) -> Finding:
        refused = [each for each in evidence.pushes() if each.status == status]
        if not refused:
            return not_tested(f"No push {what}: the server sent none.")
        first = refused[0]
        asked = [each for each in evidence.notes(ASKED, first.udid) if each.number > first.number]
        again = [each for each in evidence.pushes(first.udid) if each.number > first.number]
        if not asked:
            return not_tested("No other command was queued afterwards.", first)
        if not again:
            return failed(f"a push after the one that {what}, because another command is queued", "none", first, *asked)
        lost = _lost(evidence, first.udid, asked[0].number)
        return lost or passed(first, *again)

    return check


def _lost(evidence: Evidence, udid: str, after: int) -> Finding | None:
    """A failure if a queued command was in none of the sessions after this record."""
    sessions = evidence.exchanges("report", udid=udid, answer_status="Idle", after=after)
    if not sessions:
        return not_tested("No session was opened afterwards.")
    for note in evidence.notes("queued", udid):
        if not evidence.commands(note.request_type, udid=udid, command_uuid=note.command_uuid or None):
            return failed("each queued command", f"no command {note.command_uuid}", note, *sessions)
    return None


def not_after_410(evidence: Evidence) -> Finding:
    """No push to a token after 410 until the next TokenUpdate."""
    refused = [each for each in evidence.pushes() if each.status == Reason.UNREGISTERED.status]
    if not refused:
        return not_tested("No push was refused with 410: the server sent none.")
    first = refused[0]
    again = [each for each in evidence.pushes() if each.token == first.token and each.number > first.number]
    if again:
        return failed("no push to this token until the next TokenUpdate", f"{len(again)} pushes", first, *again)
    asked = [each for each in evidence.notes(ASKED, first.udid) if each.number > first.number]
    return passed(first, *asked) if asked else not_tested("No other command was queued afterwards.", first)


def kept_while_offline(evidence: Evidence) -> Finding:
    """Each command that was queued while the Mac was offline arrives afterwards."""
    back, queued = evidence.notes(BACK), evidence.notes("queued")
    if not back or not queued:
        return not_tested("Nothing could be queued in the server while the Mac was offline.")
    return _lost(evidence, back[0].udid, back[0].number) or passed(*queued, *evidence.commands(udid=back[0].udid))


_SENDING = "Apple Device Management, Sending MDM Commands to a Device"
_POLLING = Source(_SENDING, "Initiate Polling for MDM Commands", "")
_TOKEN_UPDATE = "checkin/tokenupdate.yaml"  # noqa: S105
_REQUESTS = "Apple User Notifications, Sending notification requests to APNs"
_RESPONSES = "Apple User Notifications, Handling notification responses from APNs"
_FORM = "push-once"


def _entry(number: int, level: Level, says: str, source: Source, check: Check, *probes: str) -> Requirement:
    return Requirement(f"MDM-PUSH-{number:02}", level, says, source, ("lom", "mdm"), probes, check)


REQUIREMENTS = (
    _entry(1, Level.MUST, "A server must push after a command was queued for a Mac.", _POLLING, sent, _FORM),
    _entry(
        2,
        Level.MUST,
        "The key mdm of a push must have the PushMagic of the Mac's last TokenUpdate.",
        Source(_TOKEN_UPDATE, "PushMagic"),
        magic,
        _FORM,
        "push-update",
    ),
    _entry(
        3,
        Level.MUST,
        "The payload of a push must have the key mdm and no other.",
        _POLLING,
        _each(_other_keys, "the key mdm alone"),
        _FORM,
    ),
    _entry(
        4,
        Level.MUST,
        "A push must be for the Token of the Mac's last TokenUpdate.",
        Source(_TOKEN_UPDATE, "Token"),
        token,
        _FORM,
        "push-update",
    ),
    _entry(
        5,
        Level.MUST,
        "The topic of a push, in apns-topic or else in the push certificate, must be the Topic of the enrollment.",
        Source("profiles/com.apple.mdm.yaml", "Topic"),
        topic,
        _FORM,
    ),
    _entry(
        6,
        Level.SHOULD,
        "A push should have the header apns-topic.",
        Source(_REQUESTS, "apns-topic", ""),
        _each(_no_topic, "the header apns-topic"),
        _FORM,
    ),
    _entry(
        7,
        Level.SHOULD,
        "A push should have the apns-push-type mdm.",
        Source(_REQUESTS, "apns-push-type", ""),
        _each(_push_type, "the apns-push-type mdm"),
        _FORM,
    ),
    _entry(
        8,
        Level.MUST,
        "The header apns-priority of a push, if there is one, must be 10, 5 or 1.",
        Source(_REQUESTS, "apns-priority", ""),
        _each(_priority, "no apns-priority, or 10, 5 or 1"),
        _FORM,
    ),
    _entry(
        9,
        Level.SHOULD,
        "The header apns-expiration of a push, if there is one, should be in the future, so that APNs stores the push "
        "for a Mac that is offline.",
        Source(_REQUESTS, "apns-expiration", ""),
        _each(_expiration, "no apns-expiration, or a later date"),
        _FORM,
    ),
    _entry(
        10,
        Level.MUST,
        "The header apns-id of a push, if there is one, must be a UUID.",
        Source(_REQUESTS, "apns-id", ""),
        _each(_apns_id, "no apns-id, or a UUID"),
        _FORM,
    ),
    _entry(
        11,
        Level.SHOULD,
        "A server should send at most five pushes for a command to a Mac that answers.",
        Source(_RESPONSES, "429, too many requests for the same device token", ""),
        no_storm,
        _FORM,
    ),
    _entry(
        12,
        Level.SHOULD,
        "A server should push to a token again after APNs refused a push with 429, and keep the commands.",
        Source(_RESPONSES, "TooManyRequests", ""),
        _again_after(Reason.TOO_MANY_REQUESTS.status, "was refused with 429"),
        "push-429",
    ),
    _entry(
        13,
        Level.SHOULD,
        "A server should push to a token again after APNs refused a push with 503, and keep the commands.",
        Source(_RESPONSES, "5XX", ""),
        _again_after(Reason.SERVICE_UNAVAILABLE.status, "was refused with 503"),
        "push-503",
    ),
    _entry(
        14,
        Level.SHOULD,
        "A server should push again after the connection to APNs broke before the answer, and keep the commands.",
        Source("RFC 9113", "6.8 and 8.7", "2022-06"),
        _again_after(0, "had its connection reset"),
        "push-broken",
    ),
    _entry(
        15,
        Level.MUST,
        "A server must not push to a token after APNs refused it with 410, until the next TokenUpdate.",
        Source(_RESPONSES, "410, timestamp", ""),
        not_after_410,
        "push-410",
    ),
    _entry(
        16,
        Level.MUST,
        "A server must keep every command that it queued while a Mac was offline, and send it when the Mac is back.",
        Source(
            "Apple Mobile Device Management Protocol Reference", "MDM Best Practices, Dequeueing Commands", "2019-03-25"
        ),
        kept_while_offline,
        "push-offline",
    ),
    _entry(
        17,
        Level.MUST,
        "The payload of a push must have at most 4,096 bytes.",
        Source("Apple User Notifications, Generating a remote notification", "4 KB", ""),
        payload_length,
        _FORM,
    ),
)
