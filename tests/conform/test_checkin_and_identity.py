"""Check-ins, identity and renewals: by other adapters than the lab's, and what their checks make of poor evidence."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from conform_runs import SECONDS, authorities, played
from conform_targets import as_webhook
from msgspec import structs
from msgspec.structs import replace
from twisted.internet import reactor

from agent.conform.reading.sessions import NOT_QUEUED, accepted, refused, refused_and_stays
from agent.conform.requirements import selected
from agent.conform.requirements.checkin import check_in_answered, no_push_after, token_removed, token_returned
from agent.conform.requirements.hostile import check_out_is_bound, queue_is_not_handed_over, resumed_is_bound
from agent.conform.requirements.identity import another_report, victim_stays
from agent.conform.requirements.lom_relay import error_ends_request, example_survived
from agent.conform.requirements.renewal import new_identity, same_server
from agent.conform.requirements.scep import wrong_challenge
from agent.conform.requirements.session import delivered, not_again, survived
from agent.conform.requirements.tls import no_old_version
from agent.conform.stage.handshakes import NOT_IN_TIME
from agent.conform.stage.target import Target, embedded_lab
from agent.conform.trace.bodies import Body, body_of
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, NoteRecord, PushRecord, Record, TLSRecord
from agent.conform.verdicts.judge import judge
from agent.conform.verdicts.requirement import Outcome
from agent.plists import dump_xml

InReactor = Callable[[Coroutine[Any, Any, Any]], Any]
AREAS = ["MDM-CHECKIN", "MDM-RENEW", "SEC-IDENTITY"]


def verdicts(run_in_reactor: InReactor, target: Target) -> dict[str, list[str]]:
    """The ids by verdict."""
    some = selected("all", AREAS)
    trace = run_in_reactor(played(target, some, patience=SECONDS))
    found: dict[str, list[str]] = {}
    for each in judge(trace, some, {}).judged:
        found.setdefault(each.verdict.value, []).append(each.requirement.id)
    return found


def test_a_webhook_provokes_all_but_renewals(run_in_reactor: InReactor) -> None:
    found = verdicts(run_in_reactor, as_webhook(embedded_lab(reactor, authorities())))
    assert found.keys() == {"pass", "not tested"}
    assert found["not tested"] == [f"MDM-RENEW-{number:02d}" for number in range(1, 6)]


def test_without_an_adapter_only_what_needs_a_command_is_not_tested(run_in_reactor: InReactor) -> None:
    target = replace(embedded_lab(reactor, authorities()), adapter="none", config=None)
    found = verdicts(run_in_reactor, target)
    assert found.keys() == {"pass", "not tested"}
    check_ins = [f"MDM-CHECKIN-{number:02d}" for number in (4, 7, 8, 13)]
    identity = [f"SEC-IDENTITY-{number:02d}" for number in (3, 11, 12)]
    assert [id_ for id_ in found["not tested"] if not id_.startswith("MDM-RENEW")] == [*check_ins, *identity]


def sent(number: int, status: int | None, says: str = "it", **more: Any) -> ExchangeRecord:
    return ExchangeRecord(
        number=number, probe="p", at=0.0, seconds=0.1, udid="A", kind="raw", status=status, message_type=says, **more
    )


def session(number: int, status: int | None) -> ExchangeRecord:
    return ExchangeRecord(
        number=number, probe="p", at=0.0, seconds=0.1, udid="A", kind="report", status=status, answer_status="Idle"
    )


def note(number: int, step: str, **more: Any) -> NoteRecord:
    return NoteRecord(number=number, probe="p", at=0.0, step=step, **more)


def outcome(check: Callable[..., Any], *records: Record, **more: Any) -> Outcome:
    result: Outcome = check(Evidence(list(records)), **more).outcome
    return result


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Outcome.FAILED),
        (302, Outcome.FAILED),
        (400, Outcome.PASSED),
        (429, Outcome.NOT_TESTED),
        (500, Outcome.NOT_TESTED),
        (503, Outcome.NOT_TESTED),
        (None, Outcome.PASSED),
    ],
)
def test_a_refusal_is_a_status_from_400_to_499_or_a_broken_connection(status: int | None, expected: Outcome) -> None:
    assert outcome(refused, session(1, 200), sent(2, status), says="it") is expected


def served(number: int, udid: str = "A", uuid: str = "1") -> list[Record]:
    """A command is queued for a Mac, which gets it in its session."""
    command = body_of(dump_xml({"CommandUUID": uuid, "Command": {"RequestType": "DeviceInformation"}}))
    queued = note(number, "queued", udid=udid, command_uuid=uuid, request_type="DeviceInformation")
    return [queued, structs.replace(session(number + 1, 200), udid=udid, response=command)]


def named(number: int, status: int, message_type: str = "") -> ExchangeRecord:
    """A message of the Mac B in the name of A: a report, or a check-in message of this type."""
    message = {"UDID": "A", "MessageType": message_type} if message_type else {"UDID": "A", "Status": "Idle"}
    return structs.replace(sent(number, status), udid="B", request=body_of(dump_xml(message)))


def pushed(number: int, udid: str) -> PushRecord:
    return PushRecord(number=number, probe="p", at=0.0, udid=udid, status=200)


@pytest.mark.parametrize(
    ("status", "message_type", "after", "expected"),
    [
        (500, "", served(5), Outcome.PASSED),
        (500, "", [session(5, 200)], Outcome.NOT_TESTED),  # it answers so to any Mac
        (500, "", served(5, udid="C"), Outcome.NOT_TESTED),
        (503, "", served(5), Outcome.NOT_TESTED),  # it had no time for the message
        (500, "CheckOut", served(5), Outcome.PASSED),
        (500, "TokenUpdate", [*served(5), pushed(7, "A")], Outcome.PASSED),
        (500, "TokenUpdate", [*served(5), pushed(7, "B")], Outcome.NOT_TESTED),  # to the token of the other Mac
        (500, "TokenUpdate", served(5), Outcome.NOT_TESTED),  # no gateway
        (500, "Authenticate", served(5), Outcome.NOT_TESTED),
        (403, "Authenticate", [], Outcome.PASSED),
    ],
)
def test_an_error_of_the_server_is_a_refusal_only_if_it_did_not_act(
    status: int, message_type: str, after: list[Record], expected: Outcome
) -> None:
    before = [structs.replace(session(1, 200), udid="B"), structs.replace(session(2, 200), udid="B", kind="checkin")]
    assert outcome(refused, *before, named(3, status, message_type), *after, says="it") is expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([session(5, 200)], Outcome.NOT_TESTED),  # it answers so to any Mac
        ([note(5, NOT_QUEUED, udid="A", data={"reason": "No adapter."}), session(6, 200)], Outcome.NOT_TESTED),
        ([note(5, "queued", udid="A", command_uuid="1"), session(6, 200)], Outcome.FAILED),
        ([note(5, "queued", udid="A", command_uuid="1"), session(6, 401)], Outcome.FAILED),
        (served(5), Outcome.PASSED),
        ([note(5, "queued", udid="A", command_uuid="2"), *served(6)[1:]], Outcome.FAILED),  # one from before
    ],
)
@pytest.mark.parametrize("check", [victim_stays, check_out_is_bound, partial(survived, says="another's CheckOut")])
def test_only_a_command_shows_that_a_mac_is_still_enrolled(
    check: Callable[..., Any], after: list[Record], expected: Outcome
) -> None:
    before = [session(1, 200), structs.replace(session(2, 200), kind="checkin")]
    assert outcome(check, *before, sent(3, 403, "another's CheckOut"), *after) is expected


def test_why_no_command_could_be_queued_is_the_reason() -> None:
    unqueued = note(3, NOT_QUEUED, udid="A", data={"reason": "Nothing can be queued. Give --server."})
    finding = victim_stays(Evidence([session(1, 200), sent(2, 403), unqueued, session(4, 200)]))
    assert finding.reason.endswith("Nothing can be queued. Give --server.")


def test_a_server_that_refuses_ordinary_reports_too_has_refused_nothing_for_what_it_is() -> None:
    assert outcome(refused, session(1, 403), sent(2, 403), says="it") is Outcome.NOT_TESTED
    assert outcome(refused, session(1, 403), sent(2, 200), says="it") is Outcome.FAILED
    another = sent(2, 403, "another's report")
    assert outcome(another_report, session(1, 403), another) is Outcome.NOT_TESTED
    assert outcome(another_report, session(1, 200), another) is Outcome.PASSED


@pytest.mark.parametrize("says", ["malformed", "unknown command"])
@pytest.mark.parametrize(("before", "expected"), [(200, Outcome.FAILED), (500, Outcome.NOT_TESTED)])
def test_a_server_that_never_answered_did_not_break_by_a_message(says: str, before: int, expected: Outcome) -> None:
    assert outcome(survived, session(1, before), sent(2, 500, says), session(3, 500), says=says) is expected
    assert outcome(survived, session(1, before), sent(2, 400, says), session(3, 500), says=says) is expected


def test_a_server_that_is_too_slow_has_refused_nothing() -> None:
    assert outcome(refused, session(1, 200), sent(2, None), note(3, "waited"), says="it") is Outcome.NOT_TESTED


def test_all_messages_with_the_word_are_looked_at() -> None:
    assert outcome(refused, session(1, 200), sent(2, 403), sent(3, 200), says="it") is Outcome.FAILED
    assert outcome(accepted, session(1, 200), sent(2, 200), sent(3, 403), says="it") is Outcome.FAILED
    assert outcome(accepted, sent(1, 200), sent(2, 403, "other"), says="it") is Outcome.PASSED


def test_who_is_unenrolled_by_a_refused_message_is_a_failure() -> None:
    before, refusal = session(1, 200), sent(2, 403)
    assert outcome(refused_and_stays, before, refusal, session(3, 200), says="it") is Outcome.PASSED
    assert outcome(refused_and_stays, before, refusal, session(3, 401), says="it") is Outcome.FAILED
    without = (note(3, "queued", udid="A", command_uuid="1"), session(4, 200))
    assert outcome(refused_and_stays, before, refusal, *without, says="it") is Outcome.FAILED
    assert outcome(refused_and_stays, session(1, 200), sent(2, 403), says="it") is Outcome.NOT_TESTED


def test_a_server_that_does_not_resume_sessions_is_not_tested_for_it() -> None:
    before = session(1, 200)
    full, own, another = sent(2, 200, "full"), sent(4, 200, "own, resumed"), sent(6, 403, "another's, resumed")

    def of(*resumed: bool) -> Outcome:
        notes = [
            note(2 * number + 1, "resumed", data={"resumed": each}) for number, each in enumerate(resumed, start=1)
        ]
        return outcome(resumed_is_bound, before, full, notes[0], own, notes[1], another, notes[2])

    assert of(False, True, True) is Outcome.PASSED
    assert of(False, False, False) is Outcome.NOT_TESTED
    assert of(False, True, False) is Outcome.NOT_TESTED


@pytest.mark.parametrize(
    "check", [token_removed, token_returned, queue_is_not_handed_over, resumed_is_bound, new_identity, same_server]
)
def test_nothing_is_judged_without_evidence(check: Callable[..., Any]) -> None:
    assert outcome(check) is Outcome.NOT_TESTED


def test_no_push_says_nothing_where_no_push_came_at_all() -> None:
    records = (sent(1, 200), note(2, "queued", udid="A"))
    assert outcome(no_push_after, *records, says="it") is Outcome.NOT_TESTED


def test_a_bootstrap_token_is_compared_without_being_in_the_trace() -> None:
    def body(token: bytes) -> Any:
        return body_of(dump_xml({"BootstrapToken": token}))

    def got(token: bytes) -> Outcome:
        asked = sent(1, 200, "SetBootstrapToken", request=body(b"secret"))
        return outcome(token_returned, asked, sent(2, 200, "GetBootstrapToken", response=body(token)))

    assert got(b"secret") is Outcome.PASSED
    assert got(b"terces") is Outcome.FAILED
    assert b"secret" not in str(body(b"secret")).encode()


@pytest.mark.parametrize(
    ("before", "status", "after", "expected"),
    [
        (b"secret", 200, b"", Outcome.PASSED),
        (b"secret", 200, b"secret", Outcome.FAILED),
        (b"secret", 500, b"", Outcome.NOT_TESTED),
        (b"", 200, b"", Outcome.NOT_TESTED),  # the server never has a token
    ],
)
def test_only_a_bootstrap_token_that_was_there_is_removed(
    before: bytes, status: int, after: bytes, expected: Outcome
) -> None:
    def body(token: bytes) -> Any:
        return body_of(dump_xml({"BootstrapToken": token} if token else {}))

    records = (
        sent(1, 200, "GetBootstrapToken", response=body(before)),
        sent(2, 200, "SetBootstrapToken without a token"),
        sent(3, status, "GetBootstrapToken without a token", response=body(after)),
    )
    assert outcome(token_removed, *records) is expected


def test_a_queue_of_which_nothing_is_ever_sent_is_not_known_to_be_kept_back() -> None:
    command = body_of(dump_xml({"CommandUUID": "2", "Command": {"RequestType": "DeviceInformation"}}))
    update = body_of(dump_xml({"MessageType": "TokenUpdate"}))
    before = structs.replace(session(1, 200), kind="checkin")
    records = (before, note(2, "queued", udid="A", command_uuid="1"), sent(3, 200, "another identity", request=update))
    another = note(4, "queued", udid="B", command_uuid="2")
    got = structs.replace(session(5, 200), udid="B", response=command)
    assert outcome(queue_is_not_handed_over, *records, another) is Outcome.NOT_TESTED
    assert outcome(queue_is_not_handed_over, *records, another, got) is Outcome.PASSED
    assert outcome(queue_is_not_handed_over, before, records[2], another, got) is Outcome.NOT_TESTED


def test_an_identity_that_did_not_change_is_no_renewal() -> None:
    same = note(1, "renewed", udid="A", data={"before": "00", "after": "00"})
    assert outcome(new_identity, same) is Outcome.NOT_TESTED


@pytest.mark.parametrize(
    ("status", "http", "outcome"),
    [
        (200, "HTTP/2", Outcome.PASSED),
        (403, "HTTP/2", Outcome.FAILED),
        (None, "HTTP/1.1", Outcome.FAILED),  # the server closed the connection
        (None, "", Outcome.NOT_TESTED),  # the Mac refused the server
    ],
)
def test_a_message_that_never_left_the_mac_is_not_judged(status: int | None, http: str, outcome: Outcome) -> None:
    record = structs.replace(sent(1, status, "Authenticate", http=http, error="refused"), kind="checkin")
    assert check_in_answered(Evidence([record]), "Authenticate").outcome is outcome


@pytest.mark.parametrize(("status", "expected"), [(200, Outcome.PASSED), (500, Outcome.NOT_TESTED)])
def test_a_session_that_is_refused_does_not_show_that_a_command_is_over(status: int, expected: Outcome) -> None:
    result = structs.replace(session(1, 200), answer_status="Acknowledged", command_uuid="1")
    assert outcome(not_again, result, session(2, status)) is expected
    error = structs.replace(result, answer_status="Error", request_type="LOMDeviceRequest")
    assert outcome(error_ends_request, error, session(2, status)) is expected
    example = sent(1, 200, "example answer", request=body_of(dump_xml({"CommandUUID": "1"})))
    assert outcome(example_survived, example, session(2, status)) is expected


@pytest.mark.parametrize(("right", "expected"), [("SUCCESS", Outcome.PASSED), ("FAILURE", Outcome.NOT_TESTED)])
def test_a_ca_that_refuses_every_challenge_has_not_refused_the_wrong_one(right: str, expected: Outcome) -> None:
    def asked(number: int, probe: str, status: str) -> ExchangeRecord:
        answer = Body(form="scep", value={"pkiStatus": status})
        record = sent(number, 200, "PKIOperation", response=answer)
        return structs.replace(record, kind="scep", probe=probe)

    wrong = asked(2, "scep-wrong-challenge", "FAILURE")
    assert outcome(wrong_challenge, asked(1, "scep-enroll", right), wrong) is expected


@pytest.mark.parametrize(
    ("command", "began", "expected"),
    [
        (2, 1.0, Outcome.PASSED),
        (3, 1.0, Outcome.FAILED),
        (3, 0.0, Outcome.PASSED),  # a session that had begun before the command was queued
    ],
)
def test_a_command_that_comes_a_session_later_is_late(command: int, began: float, expected: Outcome) -> None:
    sent_command = body_of(dump_xml({"CommandUUID": "1", "Command": {"RequestType": "ProfileList"}}))
    queued = structs.replace(note(1, "queued", udid="A", command_uuid="1", request_type="ProfileList"), at=1.0)
    sessions = [structs.replace(session(2, 200), at=began), structs.replace(session(3, 200), at=2.0)]
    sessions[command - 2] = structs.replace(sessions[command - 2], response=sent_command)
    assert outcome(delivered, queued, *sessions) is expected


@pytest.mark.parametrize(
    ("version", "error", "as_a_mac", "expected"),
    [
        ("", "tlsv1 alert protocol version", "TLSv1.3", Outcome.PASSED),
        ("TLSv1.1", "", "TLSv1.3", Outcome.FAILED),
        ("", NOT_IN_TIME, "TLSv1.3", Outcome.NOT_TESTED),
        ("", "tlsv1 alert protocol version", "", Outcome.NOT_TESTED),  # no handshake works
    ],
)
def test_old_versions_of_tls_are_refused_where_a_new_one_is_not(
    version: str, error: str, as_a_mac: str, expected: Outcome
) -> None:
    def shaken(number: int, says: str, version: str, error: str = "") -> TLSRecord:
        origin, lowest, highest = "mdm.example:443", "TLSv1", "TLSv1.3"
        facts = {"origin": origin, "lowest": lowest, "highest": highest, "version": version, "error": error}
        return TLSRecord(number=number, probe="p", at=0.0, says=says, **facts)

    assert (
        outcome(no_old_version, shaken(1, "as a Mac", as_a_mac), shaken(2, "up to TLS 1.1", version, error)) is expected
    )
