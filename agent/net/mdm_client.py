"""One Mac on the network: it enrols, wakes, talks to its server, carries commands out, goes down and comes up again.

The session and the device decide; this module sends, times and re-arms. It is also the Mac's LOM endpoint: what a
Controller asks of it changes its power, and that cuts its connections and starts its boot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from agent.device.commands import CommandSteps, carry_out
from agent.device.declarations import synchronise
from agent.device.installing import enrol, say_goodbye
from agent.device.mac import Device
from agent.device.steps import ChangePower, Done, Erase, LeaveManagement, Synchronise, carry
from agent.errors import MisuseError, PeerError
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.network import LOMConfiguration
from agent.lom.power import PowerEvent
from agent.mdm.commands import Command, CommandDropped
from agent.mdm.results import MALFORMED_REQUEST, ChainedError, Domain, Result, failed
from agent.mdm.session import Event, Execute, Over, Send, State
from agent.net.awake import Awake, Shelf
from agent.net.errands import Errands, log_defect
from agent.net.exchange import MAX_REDIRECTS, RedirectRefused, redirected, retry_after
from agent.net.http import HTTPConnection
from agent.net.http1 import Origin, Response
from agent.net.in_hand import InHand
from agent.net.power import PowerTimer
from agent.net.push_listener import GatewaySide, PushListener
from agent.net.reactor import DelayedCall
from agent.net.reports import report_request
from agent.net.resumption import Resumption
from agent.net.surroundings import Moment, Surroundings
from agent.profiles.enrolment import Enrolment
from agent.profiles.profile import Profile
from agent.push.store import Notification

_log = Logger()

FetchProfile = Callable[[], Awaitable[bytes]]


class Unenrolled(PeerError):
    """The server does not know the Mac any more, so the Mac has left its management."""

    kind = "unenrolled"


class Watch(Protocol):
    """Who is told what a Mac has done. Called in the middle of its work: no word to the Mac before the next turn."""

    def taken(self, client: MDMClient, work: InHand) -> None:
        """The server took the result of a command."""

    def session_over(self, client: MDMClient, failure: PeerError | None) -> None:
        """A session came to its end, in good order or because of ``failure``."""

    def went_down(self, client: MDMClient) -> None:
        """The Mac does not run any more; a session that was open has no end."""


class MDMClient:
    """One Mac and its connection. ``boots`` counts how often it came up again; ``watch`` hears what it has done.

    ``index`` is its place in the fleet, ``segment`` the subnet that it is in.
    """

    __slots__ = (
        "_around",
        "_awake",
        "_connection",
        "_gateway",
        "_kept",
        "_kept_enrolled",
        "_lives",
        "_lom_seen",
        "_origin",
        "_performing",
        "_poll",
        "_redirects",
        "_resumption",
        "_sent",
        "_session_since",
        "_shelf",
        "_url",
        "_work",
        "boots",
        "index",
        "segment",
        "watch",
    )

    def __init__(self, device: Device, surroundings: Surroundings) -> None:
        self._lie_down(device.mac.index, device.mac.segment, surroundings, GatewaySide(), None)
        self._wake_up(device)

    @classmethod
    def at_rest(
        cls, index: int, segment: int, surroundings: Surroundings, gateway: GatewaySide, shelf: Shelf
    ) -> MDMClient:
        """The Mac of this index, in this subnet, whose Device is on the shelf until it is asked for."""
        client = cls.__new__(cls)
        client._lie_down(index, segment, surroundings, gateway, shelf)
        return client

    def _lie_down(
        self, index: int, segment: int, surroundings: Surroundings, gateway: GatewaySide, shelf: Shelf | None
    ) -> None:
        self.index = index
        self.segment = segment
        self.boots = 0
        self.watch: Watch | None = None
        self._around = surroundings
        self._gateway = gateway
        self._shelf = shelf
        self._kept = b""
        self._kept_enrolled = False
        self._awake: Awake | None = None
        self._connection: HTTPConnection | None = None
        self._origin: Origin | None = None
        self._resumption: Resumption | None = None
        self._lives = 0
        self._lom_seen: LOMConfiguration | None = None
        self._performing: Deferred[Any] | None = None
        self._poll: DelayedCall | None = None
        self._session_since: Moment | None = None
        self._work: InHand | None = None
        self._sent: Send | None = None
        self._url = ""
        self._redirects = 0

    def _wake_up(self, device: Device | None = None) -> Awake:
        if device is None:
            if self._shelf is None:
                raise MisuseError("a Mac that is at rest, but on no shelf")
            device = self._shelf.fetch(self.index, self._kept)
            self._kept = b""
        self._awake = Awake(
            device,
            PushListener(device, self._around, self._gateway),
            Errands(device, self._around, self),
            PowerTimer(device.power, self._around.reactor, self._power_changed),
        )
        self._lom_seen = device.lom
        self._resumption = self._resumption or self._around.resumption_of(device.mac)
        return self._awake

    @property
    def device(self) -> Device:
        """The Mac itself. Whoever asks wakes it; keep the client, not the Device."""
        return (self._awake or self._wake_up()).device

    @property
    def pushes(self) -> PushListener:
        """Its side of APNs; as for ``device``."""
        return (self._awake or self._wake_up()).pushes

    @property
    def _errands(self) -> Errands:
        return (self._awake or self._wake_up()).errands

    @property
    def _power(self) -> PowerTimer:
        return (self._awake or self._wake_up()).power

    @property
    def resting(self) -> bool:
        """Whether nothing of it is there but what lies on the shelf."""
        return self._awake is None

    @property
    def connected(self) -> bool:
        """Whether its connection for sessions is open."""
        return self._connection is not None and self._connection.connected

    @property
    def in_session(self) -> bool:
        """Whether a session is open."""
        return self._awake is not None and self._awake.device.session.state is not State.CLOSED

    @property
    def enrolled(self) -> bool:
        """Whether it is managed; nobody is woken for that."""
        return self._kept_enrolled if self._awake is None else self._awake.device.enrolment is not None

    def rest(self) -> bool:
        """Lie down on the shelf, if there is nothing to do and no connection open. Returns whether it is at rest.

        A Mac that is connected, and quiet, gives up what it can make again.
        """
        awake = self._awake
        if awake is None:
            return True
        if self._shelf is None or self._work is not None or not awake.quiet:
            return False
        self._sent = self._performing = None
        if self.connected:
            for identity in awake.device.identities:
                identity.rest()
            return False
        self._kept = self._shelf.lay(awake.device)
        self._kept_enrolled = awake.device.enrolment is not None
        self._awake = self._connection = self._origin = self._lom_seen = None
        self._url = ""
        return True

    async def enroll(self, fetch: FetchProfile, due: Moment | None = None) -> None:
        """Enrol with the profile that ``fetch`` gives. Raises PeerError; the Mac is then managed as before.

        ``due`` is when it was to begin, and what its time is counted from; None is now.
        """
        since = due or self._around.now()
        self.pushes.enrolling = True
        try:
            profile = await self._errands.drive(enrol(self.device, await fetch()))
        except PeerError as error:
            self._around.record("enroll", self.index, since, error, {"udid": self.device.mac.udid})
            self.pushes.enrolling = False
            self.pushes.back()
            raise
        finally:
            self.pushes.enrolling = False
        self._end_session()  # of an enrolment before this one
        self._judge_signer(profile)
        self._look_at_lom()
        self._around.record("enroll", self.index, since, facts={"udid": self.device.mac.udid})
        self.pushes.enrolled()

    async def enroll_at(self, url: str, due: Moment | None = None) -> None:
        """Enrol with the profile at ``url``; else as ``enroll``."""
        await self.enroll(lambda: self._errands.fetch_profile(url), due)

    def receive_push(self, notification: Notification) -> bool:
        """A push came; whether it is the Mac's own. One with another PushMagic, or another topic, is ignored."""
        if not self.pushes.take(notification):
            return False
        self.wake()
        return True

    def wake(self, due: Moment | None = None) -> bool:
        """Open a session, or look again when the open one ends. A Mac that is off or not enrolled does not.

        Without a push, too: after a boot, and where it is told to poll. ``due`` is when the session was to begin, and
        what its time is counted from; None is now. Returns whether a session began.
        """
        if self.device.enrolment is None or not self.device.running:
            return False
        self._disarm_poll()
        send = self.device.session.wake()
        self._begin(send, due)
        return send is not None

    def cut_mains(self) -> None:
        """The mains power goes: all of the Mac is dark, its LOM Device end too."""
        self._power.cut_mains()
        self._look_at_lom()

    def restore_mains(self) -> None:
        """The mains power is back; the Mac boots if it ran before."""
        self._power.restore_mains()
        self._look_at_lom()

    def close(self) -> None:
        """The end of the run: close the connection, forget every timer."""
        self._disarm_poll()
        self._lives += 1
        self._stop_performing()
        if self._awake is not None:
            self._awake.close()
        if self._connection is not None:
            self._connection.close()

    # The LOM endpoint.

    @property
    def lom_addresses(self) -> Sequence[str]:
        """Its link-local addresses, primary first."""
        return self.device.lom_addresses

    @property
    def lom(self) -> LOMConfiguration | None:
        """Its LOM configuration, or None."""
        return self.device.lom

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Do what a Controller asks."""
        answer, events = self.device.receive_lom_request(request, controller, self._around.reactor.seconds())
        self._power.apply(events)
        return answer

    def _look_at_lom(self) -> None:
        """A LOM endpoint whose payload is gone is closed at once, links that are open too."""
        if self.device.lom is not self._lom_seen:
            self._lom_seen = self.device.lom
            self._around.network.lom_changed(self)

    # The session.

    def answered(self, response: Response) -> None:
        """The server answered the report that was sent last, or sends the Mac somewhere else with it."""
        try:
            following = redirected(self._url, response)
            if following is not None and self._redirects >= MAX_REDIRECTS:
                raise RedirectRefused(f"more than {MAX_REDIRECTS} redirects")
        except RedirectRefused as error:
            self.broke(error)
            return
        if following is not None and self._sent is not None:
            self._redirects += 1
            self._send_to(following, self._sent)
            return
        now = self._around.reactor.seconds()
        event = self.device.session.answer(
            response.status,
            response.body,
            now,
            content_type=response.headers.get("content-type", ""),
            retry_after=None if response.status == 200 else retry_after(response),
        )
        if response.status == 200 and self._taken(event):
            return
        self._follow(event)

    def broke(self, error: PeerError) -> None:
        """The connection broke before the answer came."""
        self.pushes.broke(error)
        self._follow(self.device.session.broke(error, self._around.reactor.seconds()))

    def _begin(self, send: Send | None, due: Moment | None = None) -> None:
        if send is not None:
            self._session_since = due or self._around.now()
            self._put(send)

    def _follow(self, event: Event) -> None:
        match event:
            case Send(malformed=reason):
                if reason:
                    self._work = InHand.malformed(event.command_uuid, self._around.now(), reason)
                self._put(event)
            case Execute(command):
                self._execute(command)
            case Over():
                self._over(event)

    def _put(self, send: Send) -> None:
        self._redirects = 0
        self._send_to(self._enrolment.server_url, send)

    def _send_to(self, url: str, send: Send) -> None:
        self._url, self._sent = url, send
        origin, request = report_request(self._enrolment, url, send.body)
        self._connection_to(origin).request(request, self, self.pushes.sending)

    @property
    def _enrolment(self) -> Enrolment:
        enrolment = self.device.enrolment
        if enrolment is None:
            raise MisuseError("a message from a Mac that is not enrolled")
        return enrolment

    def _connection_to(self, origin: Origin) -> HTTPConnection:
        enrolment = self._enrolment
        if self._connection is None or self._origin != origin or self._connection.identity is not enrolment.identity:
            if self._connection is not None:
                self._connection.close()
            self._origin = origin
            self._resumption = self._resumption or self._around.resumption_of(self.device.mac)
            self._connection = self._around.connection(
                origin, enrolment.identity, enrolment.anchors, enrolment.server_pins, self._resumption
            )
        return self._connection

    def _over(self, over: Over) -> None:
        since, self._session_since = self._session_since, None
        if since is not None:
            self._around.record("session", self.index, since, over.failure, {"udid": self.device.mac.udid})
            if self.watch is not None:
                self.watch.session_over(self, over.failure)
        if isinstance(over.failure, CommandDropped):
            self._around.warn(str(over.failure))
        if over.unenrolled:
            self._around.record(
                "enroll", self.index, self._around.now(), Unenrolled(f"the server ended the enrolment: {over.failure}")
            )
            self._leave()
        elif self.device.session.deadline is not None:
            delay = max(0.0, self.device.session.deadline - self._around.reactor.seconds())
            self._poll = self._around.reactor.callLater(delay, self._look)

    def _look(self) -> None:
        self._poll = None
        self._begin(self.device.session.wake())

    # Commands.

    def _execute(self, command: Command) -> None:
        self._work = InHand(command, self._around.now())
        outcome = carry_out(self.device, command)
        if isinstance(outcome, Result):
            self._finish(outcome)
        else:
            self._step(outcome, None)

    def _step(self, steps: CommandSteps, answer: Any) -> None:
        need = carry(steps, answer)
        if isinstance(need, Done):
            self._finish(need.value)
            return
        self._performing = Deferred.fromCoroutine(self._errands.perform(need))
        self._performing.addCallback(self._stepped, steps, self._lives).addErrback(_stopped_or_defect)

    def _stop_performing(self) -> None:
        """The Mac stops in the middle of a command: what it relays breaks off."""
        performing, self._performing = self._performing, None
        if performing is not None:
            performing.cancel()

    def _stepped(self, answer: Any, steps: CommandSteps, life: int) -> None:
        if life == self._lives:
            self._step(steps, answer)
        else:
            steps.close()  # the Mac went down meanwhile; the server still has the command

    def _finish(self, result: Result) -> None:
        work = self._work
        if work is None:
            raise MisuseError("a result without a command")
        self._look_at_lom()
        work.done(result)
        try:
            send = self.device.session.finish(work.command.uuid, result)
        except MisuseError:  # a value that no plist can hold: say so, rather than leave the server waiting
            _log.failure("a result cannot be written")
            unwritable = failed(ChainedError(Domain.MDM, MALFORMED_REQUEST, "the result cannot be written"))
            send = self.device.session.finish(work.command.uuid, unwritable)
        self._put(send)

    def _taken(self, event: Event) -> bool:
        """The server took what was sent last. True where what follows from that leaves nothing of ``event`` to do."""
        work, self._work = self._work, None
        if work is not None:
            self._around.record("command", self.index, work.since, work.failure, work.facts)
            if self.watch is not None:
                self.watch.taken(self, work)
        afterwards = self.device.take_afterwards()
        if not afterwards:
            return False
        if isinstance(event, Over):
            self._follow(event)
        ended = isinstance(event, Over)
        for what in afterwards:
            match what:
                case Synchronise(tokens):
                    self._errands.start(partial(self._synchronise, tokens))
                case ChangePower(request):
                    # The Mac is going down before it can look at the next command, which the server still has.
                    self._power.request(request)
                    ended = ended or not self.device.running
                case LeaveManagement():
                    enrolment = self._enrolment
                    self._leave()
                    self._errands.start(partial(self._say_goodbye, enrolment))
                    ended = True
                case Erase():
                    self._leave()
                    self.device.erase()
                    ended = True
        return ended

    async def _synchronise(self, tokens: bytes) -> None:
        if self.device.enrolment is not None:
            await self._errands.drive(synchronise(self.device, tokens))

    async def _say_goodbye(self, enrolment: Enrolment) -> None:
        await self._errands.drive(say_goodbye(self.device.mac.udid, enrolment))

    def _leave(self) -> None:
        """The Mac is enrolled no more."""
        self._end_session()
        self.device.forget_enrolment()
        self._look_at_lom()
        self.pushes.left()

    def _end_session(self) -> None:
        """Whatever the Mac was at with its server is over; nobody hears of it."""
        self._disarm_poll()
        self._lives += 1
        self._stop_performing()
        self._work = None
        self._session_since = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _judge_signer(self, profile: Profile) -> None:
        enrolment = self.device.enrolment
        anchors = () if enrolment is None else enrolment.anchors
        if profile.signers and not self._around.trusts(profile.signers, anchors):
            self._around.warn(f"the enrolment profile “{profile.name}” is signed by someone who is not trusted")

    # Power.

    def _power_changed(self, event: PowerEvent) -> None:
        match event:
            case PowerEvent.SHUTDOWN_STARTED:
                self._go_down(in_order=True)
            case PowerEvent.WENT_DOWN:
                self._go_down()
            case PowerEvent.CAME_UP:
                self._come_up()

    def _go_down(self, *, in_order: bool = False) -> None:
        self._lives += 1
        self._disarm_poll()
        self._session_since = None
        self._stop_performing()
        self._errands.abandon(in_order=in_order)
        self.pushes.forget()
        if self._connection is not None:
            if in_order:
                self._connection.close()
            else:
                self._connection.abort()
        if self._resumption is not None:
            self._resumption.forget()
        self.device.lose_power()
        if not self.device.session.owes_result:
            self._work = None
        if self.watch is not None and not in_order:
            self.watch.went_down(self)

    def _come_up(self) -> None:
        self.boots += 1
        self.wake()
        self.pushes.back()

    def _disarm_poll(self) -> None:
        if self._poll is not None and self._poll.active():
            self._poll.cancel()
        self._poll = None


def _stopped_or_defect(failure: TwistedFailure) -> None:
    if not isinstance(failure.value, CancelledError):
        log_defect(failure)
