"""The session: every input in every state, its reports, its retries, and the refusals that end an enrollment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies_mdm import broken_plists, values

from agent.errors import MisuseError, PeerError
from agent.mdm import session as sessions
from agent.mdm.pages import PageAnswered
from agent.mdm.refusals import ServerRefused
from agent.mdm.results import ChainedError, Domain, Result, Status, acknowledged, failed
from agent.mdm.session import TABLE, Event, Execute, Input, NotNowRepeated, Send, Session, SessionEnded, State
from agent.mdm.timing import NOT_NOW_RETRY_SECONDS, RETRY_LONGEST_SECONDS, Timing
from agent.mdm.waits import LONGEST_WAIT_SECONDS, SHORTEST_WAIT_SECONDS
from agent.plists import MAX_DEPTH, MAX_VALUES, dump_binary, dump_xml, load_dict

UDID = "5D3B0C1A-0000-4000-8000-000000000001"
BROKEN = PeerError("the connection broke")
NOT_NOW = Result(Status.NOT_NOW)


def command(uuid: str | int = "a", **body: Any) -> bytes:
    return dump_xml({"CommandUUID": uuid, "Command": {"RequestType": "ProfileList", **body}})


def new(timing: Timing | None = None, jitter: float = 1.0) -> Session:
    return Session(UDID, lambda: jitter) if timing is None else Session(UDID, lambda: jitter, timing)


def closed() -> Session:
    return new()


def waiting() -> Session:
    session = new()
    session.open()
    return session


def working() -> Session:
    session = waiting()
    session.answer(200, command(), 0.0)
    return session


def owing() -> Session:
    """Closed, with a result that was not delivered."""
    session = working()
    session.finish("a", acknowledged())
    session.power_lost()
    return session


def status_of(send: Event | Send | None) -> tuple[Any, Any]:
    assert isinstance(send, Send)
    report = load_dict(send.body)
    assert report["UDID"] == UDID
    assert report.get("CommandUUID", "") == send.command_uuid
    return report["Status"], report.get("CommandUUID")


def seen(session: Session) -> tuple[Any, ...]:
    """The observable state of a session."""
    return session.state, session.deadline, session.failures, session.woken, session.owes_result


STATES: dict[State, Callable[[], Session]] = {State.CLOSED: closed, State.WAITING: waiting, State.WORKING: working}
CALLS: list[tuple[Input, Callable[[Session], object]]] = [
    (Input.OPEN, lambda session: session.open()),
    (Input.COMMAND, lambda session: session.answer(200, command("b"), 1.0)),
    (Input.END, lambda session: session.answer(200, b"", 1.0)),
    (Input.END, lambda session: session.answer(500, b"", 1.0)),
    (Input.END, lambda session: session.answer(401, b"", 1.0)),
    (Input.END, lambda session: session.answer(200, b"no plist", 1.0)),
    (Input.END, lambda session: session.broke(BROKEN, 1.0)),
    (Input.RESULT, lambda session: session.finish("a", acknowledged())),
    (Input.POWER_LOST, lambda session: session.power_lost()),
    (Input.LEAVE, lambda session: session.forget()),
]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(("happened", "call"), CALLS)
def test_every_input_in_every_state_follows_the_table(
    state: State, happened: Input, call: Callable[[Session], object]
) -> None:
    session = STATES[state]()
    assert session.state is state
    before = seen(session)
    if (state, happened) in TABLE:
        call(session)
        assert session.state is TABLE[state, happened]
    else:
        with pytest.raises(MisuseError, match=state.name):
            call(session)
        assert seen(session) == before


def test_every_transition_of_the_table_is_tested() -> None:
    assert {happened for _, happened in TABLE} == set(Input) == {happened for happened, _ in CALLS}


def test_misuse_leaves_the_session_unchanged() -> None:
    session = working()
    for result, uuid in (
        (acknowledged(), "another"),
        (Result(Status.IDLE), "a"),
        (acknowledged({"Key": None}), "a"),
        (acknowledged({"Key": "\x00"}), "a"),
    ):
        with pytest.raises(MisuseError):
            session.finish(uuid, result)
    assert seen(session) == (State.WORKING, None, 0, False, False)
    assert status_of(session.finish("a", acknowledged())) == ("Acknowledged", "a")


# A session without errors


def test_session_runs_from_idle_through_commands_to_the_empty_response() -> None:
    session = new()
    assert status_of(session.open()) == ("Idle", None)
    for number, result in enumerate((acknowledged(), failed(ChainedError(Domain.MDM, 1, "why")), NOT_NOW)):
        event = session.answer(200, command(str(number)), 0.0)
        assert isinstance(event, Execute)
        assert event.command.uuid == str(number)
        assert status_of(session.finish(str(number), result)) == (result.status.value, str(number))
    session.answer(200, command("last"), 0.0)
    session.finish("last", acknowledged())
    assert session.answer(200, b"", 5.0) == SessionEnded()
    assert seen(session) == (State.CLOSED, None, 0, False, False)


MALFORMED: dict[str, dict[str, Any]] = {
    "no Command": {},
    "Command is an array": {"Command": []},
    "Command is text": {"Command": "ProfileList"},
    "no RequestType": {"Command": {}},
    "RequestType is a number": {"Command": {"RequestType": 7}},
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_command_is_reported_and_the_session_continues(body: dict[str, Any]) -> None:
    session = waiting()
    sent = session.answer(200, dump_xml({"CommandUUID": "bad", **body}), 0.0)
    assert status_of(sent) == ("CommandFormatError", "bad")
    assert isinstance(session.answer(200, command("good"), 0.0), Execute)


NESTED = b"<key>deep</key>" + b"<array>" * MAX_DEPTH + b"</array>" * MAX_DEPTH


def plist(inside: bytes, before: bytes = b"") -> bytes:
    return before + b'<plist version="1.0"><dict>' + inside + b"</dict></plist>"


NOT_A_COMMAND = {  # the body, the kind of the failure, and its words
    "text": (b"OK", "plist", "not a property list"),
    "a web page": (b"<html><body>Sign in</body></html>", "html_page", "found an HTML page (status 200)"),
    "broken binary": (b"bplist00" + b"\xff" * 40, "plist", "property list"),
    "an array": (dump_xml([]), "plist", "to be a dictionary"),
    "nested too deep": (plist(b"<key>CommandUUID</key><string>one</string>" + NESTED), "plist", "nested deeper"),
    "entities": (
        plist(b"<key>a</key><string>&a;</string>", b'<!DOCTYPE plist [<!ENTITY a "b">]>'),
        "plist",
        "entities",
    ),
    "too many": (plist(b"<key>a</key><array>" + b"<true/>" * (MAX_VALUES + 1) + b"</array>"), "plist", "values"),
    "no CommandUUID": (plist(b""), "command_dropped", "CommandUUID"),
    "a Command, but no CommandUUID": (
        dump_xml({"Command": {"RequestType": "ProfileList"}}),
        "command_dropped",
        "CommandUUID",
    ),
    "empty CommandUUID": (command(""), "command_dropped", "CommandUUID"),
    "a number as CommandUUID": (command(7), "command_dropped", "found an integer"),
}


@pytest.mark.parametrize(("body", "kind", "words"), NOT_A_COMMAND.values(), ids=NOT_A_COMMAND)
def test_unanswerable_response_ends_the_session(body: bytes, kind: str, words: str) -> None:
    session = waiting()
    event = session.answer(200, body, 0.0)
    assert isinstance(event, SessionEnded)
    assert event.failure is not None
    assert event.failure.kind == kind
    assert words in str(event.failure)
    assert not event.unenrolled
    assert seen(session) == (State.CLOSED, None, 0, False, False)


def test_a_push_during_a_session_starts_another_at_its_end() -> None:
    session = waiting()
    assert session.wake() is None
    assert session.woken
    assert status_of(session.answer(200, b"", 0.0)) == ("Idle", None)
    assert seen(session) == (State.WAITING, None, 0, False, False)
    assert session.answer(200, b"", 0.0) == SessionEnded()


@pytest.mark.parametrize("answer", [(200, b"no plist"), (400, b"")])
def test_push_during_a_failing_session_starts_another(answer: tuple[int, bytes]) -> None:
    session = waiting()
    session.wake()
    event = session.answer(*answer, 7.0)
    assert isinstance(event, SessionEnded)
    assert event.failure is not None
    assert session.deadline == 7.0
    session.open()
    session.answer(*answer, 8.0)
    assert session.deadline is None


# A result that was not delivered


@pytest.mark.parametrize(
    "lose",
    [
        lambda session: session.broke(BROKEN, 0.0),
        lambda session: session.power_lost(),
        lambda session: session.answer(500, b"", 0.0),
        lambda session: session.answer(503, b"", 0.0),
        lambda session: session.answer(400, b"", 0.0),
        lambda session: session.answer(403, b"", 0.0),
        lambda session: session.answer(200, PAGE, 0.0),
        lambda session: session.answer(200, b"<p>who are you?", 0.0, content_type="text/html"),
    ],
)
def test_an_undelivered_result_opens_the_next_session(lose: Callable[[Session], object]) -> None:
    session = working()
    sent = session.finish("a", acknowledged({"Key": "value"}))
    lose(session)
    assert session.owes_result
    for _ in range(2):
        assert session.open() == sent
        lose(session)
    assert session.wake() == sent
    session.answer(200, b"", 0.0)
    assert not session.owes_result
    assert status_of(session.open()) == ("Idle", None)


PAGE = b"<html><head><title>Sign in</title></head></html>"
REFUSED = [(400, b""), (403, b""), (404, PAGE), (413, b""), (204, b""), (200, PAGE)]


def refuse(session: Session, status: int) -> SessionEnded:
    """Open a session, whose report is refused."""
    session.open()
    event = session.answer(status, b"", 0.0)
    assert isinstance(event, SessionEnded)
    return event


@pytest.mark.parametrize(("status", "body"), REFUSED)
def test_refused_result_is_resent_five_times_then_dropped(status: int, body: bytes) -> None:
    session = working()
    sent = session.finish("a", acknowledged())
    event = session.answer(status, body, 0.0)
    for _ in range(5):
        assert event == SessionEnded(event.failure)  # type: ignore[union-attr]
        assert session.owes_result
        assert session.open() == sent
        event = session.answer(status, body, 0.0)
    assert isinstance(event, SessionEnded)
    assert event.dropped
    assert event.refused
    assert isinstance(event.failure, ServerRefused if status != 200 else PageAnswered)
    assert seen(session) == (State.CLOSED, None, 0, False, False)
    assert status_of(session.open()) == ("Idle", None)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_number_of_resends_of_a_refused_result_is_configurable(retries: int) -> None:
    session = Session(UDID, lambda: 1.0, refused_retries=retries)
    session.open()
    session.answer(200, command(), 0.0)
    session.finish("a", acknowledged())
    session.power_lost()
    assert [refuse(session, 400).dropped for _ in range(retries + 1)] == [False] * retries + [True]


def test_only_permanent_refusals_of_this_result_count() -> None:
    session = Session(UDID, lambda: 1.0, refused_retries=1)
    session.open()
    session.answer(200, command(), 0.0)
    session.finish("a", acknowledged())
    session.power_lost()
    assert not refuse(session, 400).dropped
    for status in (500, 503, 429):
        assert not refuse(session, status).dropped
    session.open()
    session.broke(BROKEN, 0.0)
    session.open()
    assert isinstance(session.answer(200, command("b"), 0.0), Execute)  # taken: the next one is counted anew
    session.finish("b", acknowledged())
    session.power_lost()
    assert not refuse(session, 400).dropped
    assert refuse(session, 400).dropped


def test_refused_idle_is_not_a_refused_result() -> None:
    session = Session(UDID, lambda: 1.0, refused_retries=0)
    assert not refuse(session, 400).dropped


def test_dropped_notnow_starts_no_poll() -> None:
    session = Session(UDID, lambda: 1.0, refused_retries=0)
    session.open()
    session.answer(200, command(), 0.0)
    session.finish("a", NOT_NOW)
    event = session.answer(400, b"", 0.0)
    assert isinstance(event, SessionEnded)
    assert event.dropped
    assert session.deadline is None


def test_command_interrupted_by_power_loss_is_not_answered() -> None:
    session = working()
    session.power_lost()
    assert not session.owes_result
    assert status_of(session.open()) == ("Idle", None)
    session.answer(200, command("a"), 0.0)
    assert status_of(session.finish("a", acknowledged())) == ("Acknowledged", "a")


@pytest.mark.parametrize("start", [closed, waiting, working, owing])
def test_unenrolled_mac_has_no_undelivered_result(start: Callable[[], Session]) -> None:
    session = start()
    session.wake()
    session.forget()
    assert seen(session) == (State.CLOSED, None, 0, False, False)
    assert status_of(session.open()) == ("Idle", None)


# NotNow


def put_off(session: Session, uuid: str = "a") -> Event:
    """The server sends this command and the Mac answers NotNow; returns another event if there was one."""
    event = session.answer(200, command(uuid), 100.0)
    if isinstance(event, Execute):
        session.finish(uuid, NOT_NOW)
    return event


def test_repeating_a_notnow_command_ends_the_session() -> None:
    session = waiting()
    for _ in range(1 + sessions.NOT_NOW_REPEATS):
        assert isinstance(put_off(session), Execute)
    over = put_off(session)
    assert isinstance(over, SessionEnded)
    assert isinstance(over.failure, NotNowRepeated)
    assert session.state is State.CLOSED
    assert not session.owes_result
    assert session.deadline == 100.0 + NOT_NOW_RETRY_SECONDS
    session.open()
    assert isinstance(put_off(session), Execute)  # a new session begins anew


def test_repeating_several_notnow_commands_in_turn_ends_the_session() -> None:
    session = waiting()
    events = [put_off(session, "ab"[number % 2]) for number in range(2 + sessions.NOT_NOW_REPEATS)]
    assert all(isinstance(event, Execute) for event in events)
    assert isinstance(put_off(session, "a"), SessionEnded)


def test_different_commands_can_all_get_notnow() -> None:
    session = waiting()
    for number in range(5 * sessions.NOT_NOW_REPEATS):
        assert isinstance(put_off(session, str(number)), Execute)


def test_notnow_followed_by_a_result_is_not_a_repetition() -> None:
    session = waiting()
    for _ in range(sessions.NOT_NOW_REPEATS):
        put_off(session)
    session.answer(200, command("a"), 100.0)
    session.finish("a", acknowledged())
    assert session.answer(200, b"", 100.0) == SessionEnded()


def not_now_session(timing: Timing | None = None) -> Session:
    session = new(timing)
    session.open()
    session.answer(200, command("a"), 0.0)
    session.finish("a", NOT_NOW)
    return session


def test_mac_polls_again_after_notnow() -> None:
    session = not_now_session()
    assert session.answer(200, b"", 100.0) == SessionEnded()
    assert session.deadline == 100.0 + NOT_NOW_RETRY_SECONDS
    assert status_of(session.open()) == ("Idle", None)
    assert session.deadline is None
    session.answer(200, b"", 200.0)
    assert session.deadline is None


def test_notnow_poll_interval_is_configurable() -> None:
    session = not_now_session(Timing(not_now=5.0))
    session.answer(200, b"", 100.0)
    assert session.deadline == 105.0


def test_notnow_before_another_status_starts_no_poll() -> None:
    session = not_now_session()
    session.answer(200, command("b"), 0.0)
    session.finish("b", acknowledged())
    session.answer(200, b"", 100.0)
    assert session.deadline is None


def test_notnow_of_an_earlier_session_starts_no_poll() -> None:
    session = not_now_session()
    session.answer(200, command("b"), 0.0)
    session.power_lost()
    session.open()
    session.answer(200, b"", 100.0)
    assert session.deadline is None


def test_resent_notnow_counts_in_the_session_that_delivers_it() -> None:
    session = not_now_session()
    session.broke(BROKEN, 0.0)
    assert status_of(session.open()) == ("NotNow", "a")
    session.answer(200, b"", 100.0)
    assert session.deadline == 160.0


def test_notnow_before_an_unreadable_response_counts() -> None:
    session = not_now_session()
    session.answer(200, b"no plist", 100.0)
    assert session.deadline == 160.0


def test_refused_notnow_starts_no_poll() -> None:
    session = not_now_session()
    session.answer(400, b"", 100.0)
    assert session.deadline is None
    assert session.owes_result


def test_push_starts_a_session_before_the_notnow_poll() -> None:
    session = not_now_session()
    session.wake()
    assert status_of(session.answer(200, b"", 100.0)) == ("Idle", None)
    session.answer(200, b"", 100.0)
    assert session.deadline is None


# Retries


def delays(session: Session, fail: Callable[[Session, float], object], count: int) -> list[float]:
    found = []
    for number in range(count):
        session.open()
        fail(session, 1000.0 * number)
        assert session.deadline is not None
        found.append(session.deadline - 1000.0 * number)
    return found


FAILURES: list[Callable[[Session, float], object]] = [
    lambda session, now: session.broke(BROKEN, now),
    lambda session, now: session.answer(500, b"", now),
    lambda session, now: session.answer(502, b"", now),
    lambda session, now: session.answer(503, b"", now),
    lambda session, now: session.answer(429, b"", now),
    lambda session, now: session.answer(599, b"", now, retry_after=7.0),
]


@pytest.mark.parametrize("fail", FAILURES)
def test_backoff_doubles_to_its_bound_and_jitter_halves_it_at_most(fail: Callable[[Session, float], object]) -> None:
    whole = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert delays(new(), fail, 8) == whole
    assert delays(new(jitter=0.0), fail, 8) == [seconds / 2 for seconds in whole]
    assert delays(new(Timing(retry_first=3.0, retry_longest=10.0)), fail, 4) == [3.0, 6.0, 10.0, 10.0]


def test_backoff_resets_after_an_accepted_report() -> None:
    session = new()
    delays(session, FAILURES[0], 5)
    assert session.failures == 5
    session.open()
    session.answer(200, b"", 0.0)
    assert session.failures == 0
    assert delays(session, FAILURES[0], 1) == [1.0]


def test_backoff_stays_at_its_bound() -> None:
    assert delays(new(), FAILURES[0], 2000)[-1] == RETRY_LONGEST_SECONDS


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_replaces_the_backoff(status: int) -> None:
    session = new()
    assert delays(session, lambda it, now: it.answer(status, b"", now, retry_after=17.5), 3) == [17.5] * 3
    assert session.failures == 3


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        (1e9, LONGEST_WAIT_SECONDS),
        (math.inf, LONGEST_WAIT_SECONDS),
        (0.001, SHORTEST_WAIT_SECONDS),
        (5e-324, SHORTEST_WAIT_SECONDS),
        (1.5, 1.5),
        (0.0, 1.0),
        (-5.0, 1.0),
        (math.nan, 1.0),
        (None, 1.0),
    ],
)
def test_retry_after_is_bounded(asked: float | None, waited: float) -> None:
    assert delays(new(), lambda it, now: it.answer(503, b"", now, retry_after=asked), 1) == [waited]


@given(st.floats(), st.floats(0.0, 4e9), st.floats(5e-324, 1e9), st.floats(0.0, 1.0))
def test_deadline_is_always_in_the_future(asked: float, now: float, setting: float, jitter: float) -> None:
    """A deadline that equals now would be a loop without a pause."""
    timing = Timing(retry_first=setting, retry_longest=setting, not_now=setting, retry_after_longest=setting)
    for session in (new(timing, jitter=jitter), not_now_session(timing)):
        if session.state is State.CLOSED:
            session.open()
        session.answer(503, b"", now, retry_after=asked)
        assert session.deadline is not None
        assert session.deadline > now
        assert session.deadline >= now + SHORTEST_WAIT_SECONDS or not asked > 0.0
    session = not_now_session(timing)
    session.answer(200, b"", now)
    assert session.deadline is not None
    assert session.deadline > now


def test_retry_after_bound_is_configurable() -> None:
    session = new(Timing(retry_after_longest=30.0))
    assert delays(session, lambda it, now: it.answer(503, b"", now, retry_after=31.0), 1) == [30.0]


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("key", ["retry_first", "retry_longest", "retry_after_longest", "not_now"])
def test_invalid_time_raises_misuse_error(key: str, seconds: float) -> None:
    with pytest.raises(MisuseError, match=key):
        Timing(**{key: seconds})


def test_push_does_not_wait_for_the_backoff() -> None:
    session = new()
    delays(session, FAILURES[0], 4)
    assert status_of(session.wake()) == ("Idle", None)
    assert session.deadline is None


# Responses that are not a command


@pytest.mark.parametrize("body", [b" ", b"\r\n", b" \t\r\n\v\f" * 1000])
def test_white_space_response_counts_as_empty(body: bytes) -> None:
    assert waiting().answer(200, body, 1.0) == SessionEnded()
    session = working()
    session.finish("a", acknowledged())
    assert session.answer(200, body, 1.0) == SessionEnded()
    assert not session.owes_result
    session = waiting()
    session.wake()
    assert status_of(session.answer(200, body, 1.0)) == ("Idle", None)


@pytest.mark.parametrize("body", [b"\0", b" x ", b"\xef\xbb\xbf", b"\xc2\xa0"])
def test_other_bytes_are_not_an_empty_response(body: bytes) -> None:
    event = waiting().answer(200, body, 1.0)
    assert isinstance(event, SessionEnded)
    assert event.failure is not None
    assert event.failure.kind == "plist"


def test_html_page_instead_of_a_command_is_reported_as_page() -> None:
    event = waiting().answer(200, PAGE, 1.0, content_type="text/html")
    assert isinstance(event, SessionEnded)
    assert event.failure is not None
    assert event.failure.kind == "html_page"
    assert str(event.failure) == (
        "Expected a command or an empty answer, found an HTML page titled “Sign in” (status 200). "
        "Check that the profile's ServerURL leads to the MDM server, and not to a login page or a proxy."
    )


def test_a_page_is_no_accepted_report() -> None:
    session = waiting()
    session.broke(BROKEN, 0.0)
    session.open()
    session.answer(200, PAGE, 1.0)
    assert session.failures == 1
    session.open()
    assert session.answer(200, b"", 1.0) == SessionEnded()
    assert session.failures == 0


@pytest.mark.parametrize("body", [b"no plist", dump_xml({"Command": {}})])
def test_other_bytes_deliver_the_result_before_them(body: bytes) -> None:
    session = working()
    session.finish("a", acknowledged())
    event = session.answer(200, body, 1.0, content_type="application/xml")
    assert isinstance(event, SessionEnded)
    assert event.failure is not None
    assert not event.refused
    assert not session.owes_result


def test_command_with_html_content_type_is_executed() -> None:
    assert isinstance(waiting().answer(200, command(), 1.0, content_type="text/html"), Execute)


def test_refusal_with_an_html_page_mentions_it() -> None:
    event = waiting().answer(403, PAGE, 1.0, content_type="text/html")
    assert isinstance(event, SessionEnded)
    assert isinstance(event.failure, ServerRefused)
    assert str(event.failure).endswith("with 403 instead of 200, with an HTML page titled “Sign in”")


# Refusals

UNRECOGNIZED = {"code": "com.apple.unrecognized.device", "description": "who?"}
JSON, PLIST = json.dumps(UNRECOGNIZED).encode(), dump_xml(UNRECOGNIZED)


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (401, b"", ""),
        (401, b"<html>", "text/html"),
        (403, JSON, "application/json"),
        (403, JSON, "Application/JSON; charset=utf-8"),
        (403, JSON, "application/problem+json"),
        (403, PLIST, "application/xml"),
        (403, PLIST, "text/xml;charset=UTF-8"),
        (403, PLIST, "application/x-plist"),
        (403, dump_binary(UNRECOGNIZED), "application/x-apple-plist"),
    ],
)
@pytest.mark.parametrize("start", [waiting, not_now_session])
def test_unknown_mac_unenrolls(start: Callable[[], Session], status: int, body: bytes, content_type: str) -> None:
    session = start()
    session.wake()
    event = session.answer(status, body, 1.0, content_type=content_type)
    assert isinstance(event, SessionEnded)
    assert event.unenrolled
    assert isinstance(event.failure, ServerRefused)
    assert event.failure.status == status
    assert seen(session) == (State.CLOSED, None, 0, False, False)


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (403, JSON, ""),
        (403, JSON, "text/html"),
        (403, JSON, "text/plain"),
        (403, JSON, "application/xml"),
        (403, PLIST, "application/json"),
        (403, b"", "application/json"),
        (403, b"[" * 60_000, "application/json"),
        (403, b"\xff\xfe", "application/json"),
        (403, b'"com.apple.unrecognized.device"', "application/json"),
        (403, json.dumps({"code": "com.apple.softwareupdate.required"}).encode(), "application/json"),
        (403, json.dumps({"code": ["com.apple.unrecognized.device"]}).encode(), "application/json"),
        (403, b" " * 70_000 + JSON, "application/json"),
        (403, dump_xml(["code"]), "text/xml"),
        (403, b"no plist", "text/xml"),
        (400, JSON, "application/json"),
        (404, PLIST, "text/xml"),
        (405, b"no", ""),
        (410, b"", ""),
        (413, b"no", ""),
        (415, b"no", ""),
        (204, b"", ""),
        (302, b"", ""),
    ],
)
def test_other_refusal_ends_the_session_and_keeps_the_result(status: int, body: bytes, content_type: str) -> None:
    session = working()
    sent = session.finish("a", acknowledged())
    event = session.answer(status, body, 1.0, content_type=content_type)
    assert isinstance(event, SessionEnded)
    assert not event.unenrolled
    assert isinstance(event.failure, ServerRefused)
    assert f"{status} instead of 200" in str(event.failure)
    assert seen(session) == (State.CLOSED, None, 0, False, True)
    assert session.open() == sent


@given(
    st.integers(100, 999),
    broken_plists(values) | st.binary(max_size=50) | st.just(PLIST) | st.just(JSON),
    st.sampled_from(["application/json", "text/xml", "application/x-plist", "", ";", "+json"]) | st.text(max_size=20),
    st.none() | st.floats(),
)
@example(200, command(), "application/xml", None)
@example(200, dump_xml({"CommandUUID": "a", "Command": 1}), "application/xml", None)
@example(503, b"", "", 2.220446049250313e-16)
def test_any_response_is_an_event_of_the_table(
    status: int, body: bytes, content_type: str, retry_after: float | None
) -> None:
    session = waiting()
    event = session.answer(status, body, 10.0, content_type=content_type, retry_after=retry_after)
    match event:
        case Execute():
            assert session.state is State.WORKING
        case Send():
            assert status_of(event)[0] == "CommandFormatError"
        case SessionEnded():
            assert session.state is State.CLOSED
            assert session.deadline is None or 10.0 < session.deadline <= 10.0 + 3600.0
