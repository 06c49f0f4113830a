"""One Mac's sessions with its server, one after another, from the first report to what is done after the last result.

``agent.mdm.session`` decides what follows on what. Here its reports are sent, its commands handed on, its time-outs
armed; a session's end goes into a record and to whoever watches the Mac.
"""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger

from agent.device.declarations import synchronise
from agent.device.installing import say_goodbye
from agent.device.mac import Device
from agent.device.steps import Afterwards, ChangePower, Erase, LeaveManagement, Synchronise
from agent.errors import CutShort, MisuseError, PeerError
from agent.mdm.commands import CommandDropped
from agent.mdm.results import MALFORMED_REQUEST, ChainedError, Domain, Result, failed
from agent.mdm.session import Event, Execute, NotNowRepeated, Over, Send
from agent.measure.operations import Operation
from agent.net.http.fetch import REDIRECTS, RedirectRefused, retry_after
from agent.net.http.http1 import Response
from agent.net.mac.background import BackgroundTasks
from agent.net.mac.commands import Commands, Watched
from agent.net.mac.connection import SessionConnection
from agent.net.mac.environment import Environment, Moment
from agent.net.mac.power import LOMPresence, PowerTimer
from agent.net.mac.push import PushListener
from agent.net.timing import DelayedCall
from agent.profiles.enrolment import Enrolment

LEFT = "the Mac left its management"

_log = Logger()


class Unenrolled(PeerError):
    """The server does not know the Mac any more, so the Mac has left its management."""

    kind = "unenrolled"


class Sessions:
    """The sessions of one Mac, whose parts these are. It is the caller of the requests on ``connection``."""

    __slots__ = (
        "_background",
        "_commands",
        "_connection",
        "_device",
        "_environment",
        "_lom",
        "_open",
        "_poll",
        "_power",
        "_pushes",
        "_watched",
    )

    def __init__(
        self,
        device: Device,
        environment: Environment,
        connection: SessionConnection,
        commands: Commands,
        *,
        pushes: PushListener,
        background: BackgroundTasks,
        power: PowerTimer,
        lom: LOMPresence,
        watched: Watched,
    ) -> None:
        self._device = device
        self._environment = environment
        self._connection = connection
        self._commands = commands
        self._pushes = pushes
        self._background = background
        self._power = power
        self._lom = lom
        self._watched = watched
        self._poll: DelayedCall | None = None
        self._open: Operation | None = None  # the record of the open session

    def wake(self, due: Moment | None) -> bool:
        """Open one, or look again when the open one ends. Returns whether one began.

        A Mac that is off or not enrolled does neither. ``due`` is when it was to begin; None is now.
        """
        if self._device.enrolment is None or not self._device.running:
            return False
        self._disarm_poll()
        return self._begin(due)

    @property
    def open(self) -> Operation | None:
        """The record of the session that is open; None where none is, or where it has failed already."""
        session = self._open
        return session if session is not None and session.open else None

    def end(self, reason: str) -> None:
        """Whatever the Mac was at with its server is over, for this reason, and nobody has failed."""
        self.stop(reason)
        self._commands.forget(reason)
        self._connection.hang_up()

    def stop(self, reason: str) -> None:
        """Begin nothing more, and break off what is under way; the connection stays, and so does a result."""
        self._disarm_poll()
        session, self._open = self._open, None
        if session is not None:
            why, watched = CutShort(reason), self._watched
            session.end(why)
            if watched.watch is not None:
                watched.watch.session_over(watched, why)
        self._commands.stop()

    # What the connection calls.

    def answered(self, response: Response) -> None:
        """The server answered the report that was sent last, or sends the Mac somewhere else with it."""
        status = response.status
        if status in REDIRECTS:
            self._redirect(response)
            return
        event = self._device.session.answer(
            status,
            response.body,
            self._environment.reactor.seconds(),
            content_type=response.headers.get("content-type", ""),
            retry_after=None if status == 200 else retry_after(response),
        )
        if status == 200:
            self._commands.taken()
            afterwards = self._device.take_afterwards()
            if afterwards:
                self._follow_after(afterwards, event)
                return
        self._follow(event)

    def broke(self, error: PeerError) -> None:
        """The connection broke before the answer came."""
        self._pushes.broke(error)
        self._follow(self._device.session.broke(error, self._environment.reactor.seconds()))

    # From one report to the next.

    def _begin(self, due: Moment | None = None) -> bool:
        send = self._device.session.wake()
        if send is None:
            return False
        watched = self._watched
        self._open = self._environment.begin("session", watched.index, due, {"udid": self._device.mac.udid})
        self._put(send)
        return True

    def _put(self, send: Send) -> None:
        self._connection.put(send.body, self._enrolment, self, self._pushes.sending)

    def _redirect(self, response: Response) -> None:
        try:
            self._connection.follow(response, self._enrolment, self, self._pushes.sending)
        except RedirectRefused as error:
            self.broke(error)

    @property
    def _enrolment(self) -> Enrolment:
        enrolment = self._device.enrolment
        if enrolment is None:
            raise MisuseError("a message from a Mac that is not enrolled")
        return enrolment

    def _follow(self, event: Event) -> None:
        match event:
            case Send(malformed=reason):
                if reason:
                    self._commands.malformed(event.command_uuid, reason)
                self._put(event)
            case Execute(command):
                self._commands.execute(command, self._report)
            case Over():
                self._over(event)

    def _report(self, command_uuid: str, result: Result) -> None:
        self._lom.look()
        session = self._device.session
        try:
            send = session.finish(command_uuid, result)
        except MisuseError:  # a value that no plist can hold: say so, rather than leave the server waiting
            _log.failure("a result cannot be written")
            unwritable = failed(ChainedError(Domain.MDM, MALFORMED_REQUEST, "the result cannot be written"))
            send = session.finish(command_uuid, unwritable)
        self._put(send)

    def _over(self, over: Over) -> None:
        record, self._open = self._open, None
        watched, session = self._watched, self._device.session
        if record is not None:
            record.end(over.failure)
            if watched.watch is not None:
                watched.watch.session_over(watched, over.failure)
        if over.dropped:
            self._commands.refused(str(over.failure))
            self._device.forget_afterwards()
        if isinstance(over.failure, CommandDropped | NotNowRepeated):
            self._environment.warn(str(over.failure))
        if over.unenrolled:
            why = Unenrolled(f"the server ended the enrolment: {over.failure}")
            self._environment.begin("enroll", watched.index).end(why)
            self._leave()
        elif session.deadline is not None:
            delay = max(0.0, session.deadline - self._environment.reactor.seconds())
            self._poll = self._environment.reactor.callLater(delay, self._look)

    def _look(self) -> None:
        self._poll = None
        self._begin()

    def _disarm_poll(self) -> None:
        if self._poll is not None and self._poll.active():
            self._poll.cancel()
        self._poll = None

    # What waited for the server to take a result.

    def _follow_after(self, afterwards: list[Afterwards], event: Event) -> None:
        """Do what follows from ``event``, too, unless the Mac is in no state to after these."""
        ended = isinstance(event, Over)
        if ended:
            self._follow(event)
        for what in afterwards:
            match what:
                case Synchronise(tokens):
                    self._background.start(partial(self._synchronise, tokens))
                case ChangePower(request):
                    # The Mac is going down before it can look at the next command, which the server still has.
                    self._power.request(request)
                    ended = ended or not self._device.running
                case LeaveManagement():
                    enrolment = self._enrolment
                    self._leave()
                    self._background.start(partial(self._say_goodbye, enrolment))
                    ended = True
                case Erase():
                    self._leave()
                    self._device.erase()
                    ended = True
        if not ended:
            self._follow(event)

    async def _synchronise(self, tokens: bytes) -> None:
        if self._device.enrolment is not None:
            await self._background.drive(synchronise(self._device, tokens))

    async def _say_goodbye(self, enrolment: Enrolment) -> None:
        await self._background.drive(say_goodbye(self._device.mac.udid, enrolment))

    def _leave(self) -> None:
        """The Mac is enrolled no more."""
        self.end(LEFT)
        self._device.forget_enrolment()
        self._lom.look()
        self._pushes.left()
