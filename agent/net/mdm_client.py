"""One Mac on the network: it enrols, wakes, talks to its server, carries commands out, goes down and comes up again.

The session and the device decide; this module sends, times and re-arms. It is also the Mac's LOM endpoint: what a
Controller asks of it changes its power, and that cuts its connections and starts its boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from agent.device.commands import Steps, carry_out
from agent.device.mac import Device
from agent.errors import MisuseError, PeerError
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.network import LOMConfiguration
from agent.lom.power import PowerEvent
from agent.lom.requests import Outcome
from agent.mdm import checkin, results
from agent.mdm.commands import Command
from agent.mdm.results import Result, Status
from agent.mdm.session import Event, Execute, Over, Send
from agent.net.enrolment import enrol
from agent.net.http import HTTPConnection
from agent.net.http1 import Origin, Response, encode_request, split_url
from agent.net.reactor import DelayedCall
from agent.net.surroundings import Moment, Surroundings

_log = Logger()


class CommandFailed(PeerError):
    """A command ended in another status than Acknowledged."""

    kind = "command"


class NotEnrolled(PeerError):
    """The server does not know the Mac any more."""

    kind = "unenrolled"


@dataclass(slots=True)
class _Work:
    """The command in hand, until the server has taken its result."""

    command: Command
    since: Moment
    failure: CommandFailed | None = None


class MDMClient:
    """One Mac and its connection."""

    __slots__ = (
        "_around",
        "_boot",
        "_connection",
        "_lives",
        "_origin",
        "_poll",
        "_session_since",
        "_work",
        "boots",
        "device",
    )

    def __init__(self, device: Device, surroundings: Surroundings) -> None:
        self.device = device
        self.boots = 0
        self._around = surroundings
        self._connection: HTTPConnection | None = None
        self._origin: Origin | None = None
        self._lives = 0
        self._boot: DelayedCall | None = None
        self._poll: DelayedCall | None = None
        self._session_since: Moment | None = None
        self._work: _Work | None = None

    def enroll(self, url: str) -> Deferred[None]:
        """Enrol with the profile at ``url``. The Deferred fails with a PeerError."""
        return Deferred.fromCoroutine(enrol(self.device, self._around, url, self._connection_to))

    def wake(self) -> None:
        """A push came. A Mac that is off or not enrolled hears nothing; it looks by itself when it is up again."""
        if self.device.enrolment is None or not self.device.running:
            return
        self._disarm_poll()
        self._begin(self.device.session.wake())

    def close(self) -> None:
        """The end of the run: close the connection, forget every timer."""
        self._disarm_poll()
        if self._boot is not None and self._boot.active():
            self._boot.cancel()
        self._lives += 1
        if self._connection is not None:
            self._connection.close()

    # The LOM endpoint.

    @property
    def index(self) -> int:
        """The Mac's index in the fleet."""
        return self.device.mac.index

    @property
    def segment(self) -> int:
        """The subnet that it is in."""
        return self.device.mac.segment

    @property
    def lom_addresses(self) -> Sequence[str]:
        """Its link-local addresses, primary first."""
        return self.device.lom_addresses

    @property
    def lom(self) -> LOMConfiguration | None:
        """Its LOM configuration, or None."""
        return self.device.lom

    def receive_lom_request(self, request: LinkRequest, _controller: str) -> LinkAnswer:
        """Do what a Controller asks."""
        answer, events = self.device.receive_lom_request(request, self._around.reactor.seconds())
        self._power(events)
        return answer

    # The session.

    def answered(self, response: Response) -> None:
        """The server answered the report that was sent last."""
        now = self._around.reactor.seconds()
        event = self.device.session.answer(response.status, response.body, now)
        went_down: list[PowerEvent] = []
        if response.status == 200:
            self._delivered()
            went_down = self.device.delivered(now)
        if not went_down or isinstance(event, Over):
            self._follow(event)  # else the Mac is off before it can look at the next command, which the server keeps
        self._power(went_down)

    def broke(self, error: PeerError) -> None:
        """The connection broke before the answer came."""
        self._follow(self.device.session.broke(error, self._around.reactor.seconds()))

    def _begin(self, send: Send | None) -> None:
        if send is not None:
            self._session_since = self._around.now()
            self._put(send)

    def _follow(self, event: Event) -> None:
        match event:
            case Send():
                self._put(event)
            case Execute(command):
                self._execute(command)
            case Over():
                self._over(event)

    def _put(self, send: Send) -> None:
        enrolment = self.device.enrolment
        if enrolment is None:
            raise MisuseError("a report from a Mac that is not enrolled")
        origin, target = split_url(enrolment.server_url)
        headers = {"User-Agent": checkin.USER_AGENT, "Content-Type": results.CONTENT_TYPE}
        self._connection_to(origin).request(encode_request("PUT", origin, target, headers, send.body), self)

    def _connection_to(self, origin: Origin) -> HTTPConnection:
        enrolment = self.device.enrolment
        if enrolment is None:
            raise MisuseError("a connection of a Mac that is not enrolled")
        if self._connection is None or self._origin != origin:
            if self._connection is not None:
                self._connection.close()
            self._origin = origin
            self._connection = self._around.connection(origin, enrolment.identity, enrolment.anchors)
        return self._connection

    def _over(self, over: Over) -> None:
        since, self._session_since = self._session_since, None
        if since is not None:
            self._around.record("session", self.index, since, over.failure, {"udid": self.device.mac.udid})
        if over.unenrolled:
            self._unenrol()
        elif self.device.session.deadline is not None:
            delay = max(0.0, self.device.session.deadline - self._around.reactor.seconds())
            self._poll = self._around.reactor.callLater(delay, self._look)

    def _look(self) -> None:
        self._poll = None
        self._begin(self.device.session.wake())

    def _unenrol(self) -> None:
        self.device.forget_enrolment()
        self._work = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Commands.

    def _execute(self, command: Command) -> None:
        self._work = _Work(command, self._around.now())
        outcome = carry_out(self.device, command)
        if isinstance(outcome, Result):
            self._finish(outcome)
        else:
            self._step(outcome, None)

    def _step(self, steps: Steps, answer: list[Outcome] | None) -> None:
        try:
            wanted = next(steps) if answer is None else steps.send(answer)
        except StopIteration as end:
            self._finish(end.value)
            return
        self._around.network.relay(self, wanted.items).addCallback(self._stepped, steps, self._lives).addErrback(
            self._defect
        )

    def _stepped(self, outcomes: list[Outcome], steps: Steps, life: int) -> None:
        if life == self._lives:
            self._step(steps, outcomes)
        else:
            steps.close()  # the Mac went down meanwhile; the server still has the command

    def _defect(self, failure: TwistedFailure) -> None:
        _log.failure("a command could not be carried out", failure)

    def _finish(self, result: Result) -> None:
        work = self._work
        if work is None:
            raise MisuseError("a result without a command")
        if result.status is not Status.ACKNOWLEDGED:
            reason = "; ".join(error.description for error in result.errors) or "no reason given"
            work.failure = CommandFailed(f"{work.command.request_type}: {result.status.value}: {reason}")
        self._put(self.device.session.finish(work.command.uuid, result))

    def _delivered(self) -> None:
        """The server took what was sent last; if that was a result, its command is done."""
        work, self._work = self._work, None
        if work is not None:
            facts = {"request_type": work.command.request_type[:200], "command_uuid": work.command.uuid}
            self._around.record("command", self.index, work.since, work.failure, facts)

    # Power.

    def _power(self, events: Sequence[PowerEvent]) -> None:
        for event in events:
            match event:
                case PowerEvent.WENT_DOWN:
                    self._go_down()
                case PowerEvent.BOOT_STARTED:
                    self._start_boot()
                case PowerEvent.CAME_UP:
                    self._come_up()

    def _go_down(self) -> None:
        self._lives += 1
        self._disarm_poll()
        if self._boot is not None and self._boot.active():
            self._boot.cancel()
        self._session_since = None
        if self._connection is not None:
            self._connection.abort()
        self.device.lose_power()
        if not self.device.session.owes_result:
            self._work = None

    def _start_boot(self) -> None:
        deadline = self.device.power.deadline
        if deadline is None:
            raise MisuseError("a boot without an end")
        delay = max(0.0, deadline - self._around.reactor.seconds())
        self._boot = self._around.reactor.callLater(delay, self._advance)

    def _advance(self) -> None:
        self._boot = None
        # A clock that is a hair behind the timer must not leave the Mac booting for ever.
        self._power(self.device.power.advance(max(self._around.reactor.seconds(), self.device.power.deadline or 0.0)))

    def _come_up(self) -> None:
        self.boots += 1
        self.wake()

    def _disarm_poll(self) -> None:
        if self._poll is not None and self._poll.active():
            self._poll.cancel()
        self._poll = None
