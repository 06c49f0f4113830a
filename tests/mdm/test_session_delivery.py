"""The session against a server with a queue, over a connection that breaks: every command is answered exactly once."""

from __future__ import annotations

from collections import Counter

import pytest
from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.errors import MisuseError, PeerError
from agent.mdm.commands import Command
from agent.mdm.results import Result, Status
from agent.mdm.session import TABLE, Event, Execute, Input, Send, Session, SessionEnded, State
from agent.plists import dump_xml, load_dict

UDID = "5D3B0C1A-0000-4000-8000-000000000001"
BROKEN = PeerError("the connection broke")
REFUSED_RETRIES = 1
FINAL = [Status.ACKNOWLEDGED, Status.ERROR, Status.COMMAND_FORMAT_ERROR]


class Server:
    """An MDM server's queue: a command stays in it until its result is something other than NotNow."""

    def __init__(self) -> None:
        self.queue: dict[str, bytes] = {}
        self.answered: dict[str, str] = {}
        self.repeated: Counter[str] = Counter()
        self._not_now: set[str] = set()

    def add(self, uuid: str, body: bytes) -> None:
        self.queue[uuid] = body

    def receive(self, body: bytes) -> bytes:
        report = load_dict(body)
        assert report["UDID"] == UDID
        uuid, status = report.get("CommandUUID"), report["Status"]
        if uuid is None:
            assert status == "Idle"
            self._not_now.clear()
        elif status == "NotNow":
            self._not_now.add(uuid)
        elif self.queue.pop(uuid, None) is not None:
            self.answered[uuid] = status
        else:
            assert self.answered[uuid] == status, "the same command was answered in two ways"
            self.repeated[uuid] += 1
        return next((octets for queued, octets in self.queue.items() if queued not in self._not_now), b"")


class Delivery(RuleBasedStateMachine):
    """A Mac and its server, with the message in flight and the current command between them."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.session = Session(UDID, lambda: 0.5, refused_retries=REFUSED_RETRIES)
        self.refused = 0
        self.malformed: set[str] = set()
        self.now = 0.0
        self.sent: Send | None = None
        self.current: Command | None = None
        self.finished: Counter[str] = Counter()
        self.added = 0

    def follow(self, event: Event) -> None:
        self.sent, self.current = None, None
        if isinstance(event, Send):
            self.sent = event
            if event.command_uuid:
                self.refused = 0
        elif isinstance(event, Execute):
            self.current = event.command

    def finish_in_hand(self, status: Status) -> None:
        assert self.current is not None
        if status is not Status.NOT_NOW:
            self.finished[self.current.uuid] += 1
        self.follow(self.session.finish(self.current.uuid, Result(status)))

    @rule(good=st.booleans())
    def queue_command(self, good: bool) -> None:
        uuid = f"command {self.added}"
        self.added += 1
        body = {"RequestType": "ProfileList"} if good else {"RequestType": 5}
        self.server.add(uuid, dump_xml({"CommandUUID": uuid, "Command": body}))
        if not good:
            self.malformed.add(uuid)
            self.finished[uuid] += 1  # the session answers it by itself

    @rule()
    def push(self) -> None:
        send = self.session.wake()
        if send is not None:
            self.sent = send

    @rule(seconds=st.floats(0.1, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        deadline = self.session.deadline
        if deadline is not None and deadline <= self.now:
            self.sent = self.session.open()

    @precondition(lambda self: self.sent is not None)
    @rule()
    def server_answers(self) -> None:
        assert self.sent is not None
        self.follow(self.session.answer(200, self.server.receive(self.sent.body), self.now))

    @precondition(lambda self: self.sent is not None)
    @rule(arrived=st.booleans())
    def connection_breaks(self, arrived: bool) -> None:
        assert self.sent is not None
        if arrived:
            self.server.receive(self.sent.body)
        self.follow(self.session.broke(BROKEN, self.now))

    @precondition(lambda self: self.sent is not None)
    @rule(arrived=st.booleans(), status=st.sampled_from([400, 429, 500, 503]), retry_after=st.none() | st.just(3.0))
    def server_fails(self, arrived: bool, status: int, retry_after: float | None) -> None:
        assert self.sent is not None
        sent = self.sent
        if arrived:
            self.server.receive(sent.body)
        event = self.session.answer(status, b"", self.now, retry_after=retry_after)
        self.session_ended(sent, event, refused=status == 400)

    def session_ended(self, sent: Send, event: Event, *, refused: bool) -> None:
        """The session ended after a report that the server refused, or whose fate the Mac does not know."""
        assert isinstance(event, SessionEnded)
        if sent.command_uuid and refused:
            self.refused += 1
            assert event.dropped == (self.refused > REFUSED_RETRIES)
        else:
            assert not event.dropped
        if event.dropped:
            self.result_is_dropped(sent)
        self.follow(event)

    def result_is_dropped(self, sent: Send) -> None:
        """The Mac has dropped the result; a server that has not received it sends the command again."""
        assert not self.session.owes_result
        by_hand = sent.command_uuid not in self.malformed and load_dict(sent.body)["Status"] != "NotNow"
        if by_hand and sent.command_uuid in self.server.queue:
            self.finished[sent.command_uuid] -= 1

    @precondition(lambda self: self.sent is not None)
    @rule(page=st.booleans())
    def answer_is_garbled(self, page: bool) -> None:
        assert self.sent is not None
        sent = self.sent
        self.server.receive(sent.body)
        event = self.session.answer(200, b"<html>" if page else b"no plist", self.now)
        self.session_ended(sent, event, refused=page)

    @rule(arrived=st.booleans())
    def power_goes(self, arrived: bool) -> None:
        if arrived and self.sent is not None:
            self.server.receive(self.sent.body)
        self.session.power_lost()
        self.sent, self.current = None, None

    @precondition(lambda self: self.current is not None)
    @rule(status=st.sampled_from([*FINAL, Status.NOT_NOW]))
    def command_ends(self, status: Status) -> None:
        self.finish_in_hand(status)

    @invariant()
    def state_says_what_is_going_on(self) -> None:
        expected = State.WAITING if self.sent else State.WORKING if self.current else State.CLOSED
        assert self.session.state is expected

    @invariant()
    def only_a_closed_session_has_a_deadline(self) -> None:
        if self.session.state is not State.CLOSED:
            assert self.session.deadline is None

    @invariant()
    def an_unanswered_result_is_still_owed(self) -> None:
        owed = [uuid for uuid, times in self.finished.items() if times and uuid not in self.server.answered]
        for uuid in owed:
            assert self.session.owes_result or uuid in self.server.queue

    def teardown(self) -> None:
        """Without further failures, a few pushes are enough for every queued command to be answered once."""
        for _ in range(20 * (self.added + 2)):
            if self.sent is not None:
                self.server_answers()
            elif self.current is not None:
                self.finish_in_hand(Status.ACKNOWLEDGED)
            elif self.server.queue or self.session.owes_result:
                self.push()
            else:
                break
        assert not self.server.queue
        assert len(self.server.answered) == self.added
        assert self.finished == Counter(self.server.answered.keys()), "a command was carried out to its end twice"


class AnyCall(RuleBasedStateMachine):
    """Every call at any time: it either follows the table, or raises MisuseError and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(UDID, lambda: 0.5)
        self.command = ""

    @rule(happened=st.sampled_from(Input), reason=st.integers(0, 3))
    def call(self, happened: Input, reason: int) -> None:
        before = self.session.state, self.session.deadline, self.session.failures, self.session.owes_result
        following = TABLE.get((before[0], happened))
        if following is None:
            with pytest.raises(MisuseError):
                self.perform(happened, reason)
            after = self.session.state, self.session.deadline, self.session.failures, self.session.owes_result
            assert after == before
        else:
            self.perform(happened, reason)
            assert self.session.state is following

    def perform(self, happened: Input, reason: int) -> None:
        match happened:
            case Input.OPEN:
                self.session.open()
            case Input.COMMAND:
                body = dump_xml({"CommandUUID": str(reason), "Command": {"RequestType": "ProfileList"}})
                self.session.answer(200, body, 0.0)
                self.command = str(reason)
            case Input.END if reason == 0:
                self.session.broke(BROKEN, 0.0)
            case Input.END:
                self.session.answer((200, 503, 404, 401)[reason], b"", 0.0)
            case Input.RESULT:
                status = (*FINAL, Status.NOT_NOW)[reason]
                self.session.finish(self.command, Result(status))
            case Input.POWER_LOST:
                self.session.power_lost()
            case Input.LEAVE:
                self.session.forget()


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(examples(60, explored=150), stateful_step_count=40)
TestAnyCall = AnyCall.TestCase
TestAnyCall.settings = settings(examples(25, explored=50), stateful_step_count=40)
