"""One Mac's sessions with its server, one after another.

``agent.mdm.session`` is the protocol's state machine. Here its reports are sent over the Mac's SessionConnection, its
commands are carried out by the Mac's Commands, its deadlines become a timer, and a session's end goes into a record and
to the Mac's observer.
"""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace
from twisted.logger import Logger

from agent.device.installing.profiles import check_out_steps
from agent.device.mac import Device
from agent.device.steps import (
    ChangePower,
    Erase,
    FollowUp,
    InstallApps,
    LeaveManagement,
    SynchroniseDeclarations,
    UpdateSoftware,
)
from agent.errors import CutShort, MisuseError, PeerError
from agent.faults.decisions import Hit
from agent.mdm.commands import CommandDropped
from agent.mdm.results import MALFORMED_REQUEST, ChainedError, Domain, Result, Status, failed
from agent.mdm.session import Event, Execute, NotNowRepeated, Send, SessionEnded, State
from agent.measure.operations import Moment, Operation
from agent.net.http.fetch import REDIRECTS, RedirectRefused, retry_after
from agent.net.http.http1 import Response
from agent.net.mac.faults.injection import altered
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power.timer import LOMPresence, PowerTimer
from agent.net.mac.push import PushListener
from agent.net.mac.sessions.background import BackgroundTasks
from agent.net.mac.sessions.commands import Commands, SimulatedMac
from agent.net.mac.sessions.connection import SessionConnection
from agent.net.mac.sessions.declarative import DeclarativeManagement
from agent.net.mac.sessions.exchanging import OpenExchange, record, record_instead
from agent.net.mac.upkeep import Upkeep
from agent.net.timing import Alarm
from agent.profiles.enrollment import Enrollment

LEFT = "the Mac was unenrolled"

_log = Logger()


class Unenrolled(PeerError):
    """The server does not know the Mac any more, so the Mac is unenrolled."""

    kind = "unenrolled"


class Sessions:
    """The sessions of one Mac, ``mac``. It is the Caller of the requests on ``connection``, which gives it the answers.

    ``poll`` wakes the Mac for a session that no push starts: after NotNow, or after a report that was refused.
    """

    __slots__ = (
        "_background",
        "_commands",
        "_connection",
        "_declarative",
        "_device",
        "_environment",
        "_exchange",
        "_held_until",
        "_kept_first",
        "_lom",
        "_mac",
        "_open",
        "_poll",
        "_power",
        "_pushes",
        "_upkeep",
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
        declarative: DeclarativeManagement,
        upkeep: Upkeep,
        mac: SimulatedMac,
        poll: Alarm,
    ) -> None:
        self._device = device
        self._environment = environment
        self._connection = connection
        self._commands = commands
        self._pushes = pushes
        self._background = background
        self._power = power
        self._lom = lom
        self._declarative = declarative
        self._upkeep = upkeep
        self._mac = mac
        self._poll = poll
        self._open: Operation | None = None  # the record of the open session
        self._exchange: OpenExchange | None = None  # the record of the report that awaits its answer
        self._kept_first: Send | None = None  # the report that is sent when the Mac is written to its file
        self._held_until: float | None = None  # when a session that a fault rule delays is opened

    def wake(self, due: Moment | None) -> bool:
        """Open a session, or ask for commands again when the open one ends; returns whether one was opened.

        No effect on a Mac that is off, not enrolled, or in the check-ins of another enrollment. ``due`` is when the
        session was to start; None is now.
        """
        device = self._device
        if device.enrollment is None or device.enrolling is not None or not device.running:
            return False
        self._poll.cancel()
        return self._begin(due)

    def carry_on(self) -> None:
        """Set the timer for a session that a restored Mac opens by itself."""
        if self._device.enrollment is not None and self._device.running:
            self._poll.set_at(self._device.session.deadline)

    @property
    def quiet(self) -> bool:
        """Whether no session is delayed."""
        return self._held_until is None

    @property
    def open(self) -> Operation | None:
        """The record of the open session; None where none is open or its record has ended already."""
        session = self._open
        return session if session is not None and session.open else None

    def end(self, reason: str) -> None:
        """End the open session, cut its records short for this reason, and close the connection."""
        self.stop(reason)
        self._commands.forget(reason)
        self._connection.hang_up()

    def stop(self, reason: str) -> None:
        """End the open session and start no other; the connection stays open, and an undelivered result is kept."""
        self._poll.cancel()
        self._held_until = None
        self._kept_first = None
        self._environment.changed(self._mac.index)
        self._end_exchange(error=reason)
        session, self._open = self._open, None
        if session is not None:
            why = CutShort(reason)
            session.end(why)
            self._tell_ended(why)
        self._commands.stop()

    def leave(self, why: str, *, check_out: bool = True) -> None:
        """Unenroll the Mac. ``check_out``: and send CheckOut where the enrollment asks for it."""
        enrollment = self._enrollment
        self._leave(why)
        if check_out:
            self._background.start(partial(self._check_out, enrollment))

    # What the connection calls.

    def answered(self, response: Response) -> None:
        """The server answered the last report, or redirects it."""
        status = response.status
        exchange = self._exchange
        if exchange is not None:
            self._end_exchange(response)
        if status in REDIRECTS:
            self._redirect(response, exchange)
            return
        event = self._device.session.answer(
            status,
            response.body,
            self._environment.clock.seconds(),
            content_type=response.headers.get("content-type", ""),
            retry_after=None if status == 200 else retry_after(response),
        )
        self._environment.changed(self._mac.index)
        if status == 200 and not (isinstance(event, SessionEnded) and event.refused):
            self._commands.taken()
            follow_ups = self._device.take_follow_ups()
            if follow_ups:
                self._apply_follow_ups(follow_ups, event)
                return
        self._follow(event)

    def broke(self, error: PeerError) -> None:
        """The connection broke before the answer."""
        self._end_exchange(error=error)
        self._pushes.broke(error)
        self._environment.changed(self._mac.index)
        self._follow(self._device.session.broke(error, self._environment.clock.seconds()))

    # From one report to the next.

    def _begin(self, due: Moment | None = None) -> bool:
        hit = None
        if self._environment.faults is not None and self._device.session.state is State.CLOSED:
            if self._held_until is None:
                hit = self._environment.decide("session", self._device.mac)
            if self._is_held(hit):
                return self._held_until is not None
        send = self._device.session.wake()
        if send is None:
            return False
        if self._connection.connected and self._device.enrollment is not None:
            self._device.enrollment.identity.for_tls = None  # the server keeps connections: no handshake is near
        self._open = self._environment.begin(
            "session", self._mac.index, due, {"udid": self._device.mac.udid, **self._device.channel_facts}
        )
        if self._mac.observer is not None:
            self._mac.observer.session_started(self._mac)
        self._environment.changed(self._mac.index)
        self._put(send, hit)
        return True

    def _is_held(self, hit: Hit | None) -> bool:
        """Whether the session is not opened now: it is delayed, or the Mac goes offline instead."""
        now = self._environment.clock.seconds()
        if hit is not None and hit.rule.do in ("offline", "delay"):
            record_instead(self._environment, self._device.mac, hit)
        if hit is not None and hit.rule.do == "offline":
            self._mac.go_offline(hit.rule.seconds or 0.0)
            return True
        if hit is not None and hit.rule.do == "delay":
            self._held_until = now + (hit.rule.seconds or 0.0)
        if self._held_until is None or now >= self._held_until:
            self._held_until = None
            return False
        self._poll.set_at(self._held_until)
        return True

    def _put(self, send: Send, hit: Hit | None = None) -> None:
        """Send a report, a result not before it is in the Mac's file; ``hit`` is the fault of it."""
        keeper = self._environment.keeper
        if keeper is None or not send.command_uuid:
            self._put_now(send, hit)
        else:
            self._kept_first = send
            keeper.when_kept(self._mac.index, partial(self._put_kept, send, hit))

    def _put_kept(self, send: Send, hit: Hit | None) -> None:
        if self._kept_first is send:  # otherwise the session has ended meanwhile
            self._kept_first = None
            self._put_now(send, hit)

    def _put_now(self, send: Send, hit: Hit | None) -> None:
        enrollment, body = self._enrollment, self._device.addressed(send.body)
        if hit is not None:
            body = altered(body, self._device.mac, hit)
        if self._environment.exchanges is not None:
            self._exchange = self._recorded(enrollment.server_url, body, hit, send.command_uuid)
        self._connection.put(body, enrollment, self, self._pushes.sending, hit)

    def _redirect(self, response: Response, exchange: OpenExchange | None) -> None:
        """Follow a redirect; ``exchange`` is the record of the report that it answers."""
        try:
            url = self._connection.following(response)
        except RedirectRefused as error:
            self.broke(error)
            return
        if exchange is not None:
            self._exchange = exchange.redirected(url)
        self._connection.follow(url, self._enrollment, self, self._pushes.sending)

    def _recorded(self, url: str, body: bytes, hit: Hit | None, command_uuid: str) -> OpenExchange | None:
        current = self._commands.current if command_uuid else None
        facts = {} if current is None else current.facts
        return record(
            self._environment,
            self._device.mac,
            "report",
            hit,
            url=url,
            method="PUT",
            request=body,
            request_type=facts.get("request_type", ""),
            command_uuid=command_uuid,
            answer_status=facts.get("status", "" if command_uuid else Status.IDLE.value),
        )

    def _end_exchange(self, response: Response | None = None, *, error: object = "") -> None:
        opened, self._exchange = self._exchange, None
        if opened is None:
            return
        rule, http = self._connection.connect_rule, self._connection.http_version
        if response is None:
            opened.end(error=error, opened_by=rule, http=http)
        else:
            opened.end(
                status=response.status, response=response.body, headers=response.headers, opened_by=rule, http=http
            )

    @property
    def _enrollment(self) -> Enrollment:
        enrollment = self._device.enrollment
        if enrollment is None:
            raise MisuseError("expected an enrolled Mac to send a report, found one that is not")
        return enrollment

    def _follow(self, event: Event) -> None:
        match event:
            case Send(malformed=reason):
                if reason:
                    self._commands.malformed(event.command_uuid, reason)
                self._put(event)
            case Execute(command):
                if self._device.channel != command.channel:
                    command = replace(command, channel=self._device.channel)
                self._commands.execute(command, self._report)
            case SessionEnded():
                self._over(event)

    def _report(self, command_uuid: str, result: Result, hit: Hit | None) -> None:
        self._lom.update()
        session = self._device.session
        try:
            send = session.finish(command_uuid, result)
        except MisuseError:  # a value that no plist can hold: the server gets an Error result
            _log.failure("a result cannot be written as a property list")
            unwritable = failed(ChainedError(Domain.MDM, MALFORMED_REQUEST, "the result cannot be written"))
            send = session.finish(command_uuid, unwritable)
        self._put(send, hit)

    def _over(self, over: SessionEnded) -> None:
        record, self._open = self._open, None
        session = self._device.session
        if record is not None:
            record.end(over.failure)
            self._tell_ended(over.failure)
        if over.dropped:
            self._commands.refused(str(over.failure))
            self._device.drop_follow_ups()
        if isinstance(over.failure, CommandDropped | NotNowRepeated):
            self._environment.warn(str(over.failure))
        if over.unenrolled:
            self._unenrolled(over.failure)
        else:
            self._poll.set_at(session.deadline)
            self._declarative.reconsider()
            self._mac.session_over()

    def _unenrolled(self, failure: PeerError | None) -> None:
        why = Unenrolled(f"the server ended the enrollment: {failure}")
        self._environment.begin("enroll", self._mac.index).end(why)
        self._leave(str(why))

    def _tell_ended(self, failure: PeerError | None) -> None:
        observer = self._mac.observer
        if observer is not None:
            observer.session_ended(self._mac, failure)

    # Effects of a command that come after the server has accepted its result.

    def _apply_follow_ups(self, follow_ups: list[FollowUp], event: Event) -> None:
        """Apply these effects, then continue with ``event`` where the Mac still can."""
        ended = isinstance(event, SessionEnded)
        if ended:
            self._follow(event)
        for what in follow_ups:
            match what:
                case SynchroniseDeclarations(tokens):
                    self._declarative.synchronise(tokens)
                case UpdateSoftware(update):
                    self._upkeep.update_software(update)
                case ChangePower(request):
                    # The Mac goes down before it can read the next command, which the server still has.
                    self._power.request(request)
                    ended = ended or not self._device.running
                case InstallApps():
                    self._upkeep.install_apps()
                case LeaveManagement():
                    self.leave("the server removed the enrollment profile")
                    ended = True
                case Erase():
                    self._leave("the server erased the Mac")
                    self._device.erase()
                    ended = True
        if not ended:
            self._follow(event)

    async def _check_out(self, enrollment: Enrollment) -> None:
        await self._background.drive(check_out_steps(self._device.mac.udid, enrollment))

    def _leave(self, why: str) -> None:
        """Unenroll the Mac."""
        self.end(LEFT)
        self._mac.end_user_channel(LEFT)
        self._device.forget_enrollment()
        self._lom.update()
        self._pushes.left()
        self._environment.changed(self._mac.index)
        if self._mac.observer is not None:
            self._mac.observer.left(self._mac, why)
