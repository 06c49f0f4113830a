"""One Mac on the network, as a run has it: it enrols, wakes for its server, goes down and comes up, lies down to rest.

The client is what is always there, and the one that everybody else talks to. What a Mac needs only while it is awake is
``Awake``, made around the Device when somebody asks for it. The client is the Mac's LOM endpoint, too: what a
Controller asks of it changes its power, and that cuts its connections and starts its boot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.device.installing import enrol
from agent.device.mac import Device
from agent.errors import MisuseError, PeerError
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.power import PowerEvent
from agent.mdm.session import State
from agent.measure.operations import RUN_ENDED, Operation
from agent.net.http.resumption import Resumption
from agent.net.mac.background import BackgroundTasks, KeyWait
from agent.net.mac.commands import Commands, Watch
from agent.net.mac.connection import SessionConnection
from agent.net.mac.environment import Environment, Moment
from agent.net.mac.power import LOMPresence, PowerTimer
from agent.net.mac.push import GatewaySide, PushListener
from agent.net.mac.sessions import Sessions
from agent.profiles.profile import Profile
from agent.push.store import Notification

WENT_DOWN = "the Mac went down"


class IdleStore(Protocol):
    """Where a Device lies while nothing happens to it: ``agent.device.packed``."""

    def fetch(self, index: int, kept: bytes) -> Device:
        """The Device of this index, from what ``lay`` gave; from the factory where that is empty."""

    def lay(self, device: Device) -> bytes:
        """What ``fetch`` makes this Device of again."""


@dataclass(frozen=True, slots=True)
class ActiveMac:
    """The Device and what belongs to it alone."""

    device: Device
    pushes: PushListener
    background: BackgroundTasks
    power: PowerTimer
    lom: LOMPresence
    connection: SessionConnection
    commands: Commands
    sessions: Sessions

    @property
    def quiet(self) -> bool:
        """Whether the Mac is at nothing, so that it can be laid down."""
        return self.device.quiet and self.pushes.quiet and self.background.quiet and self.commands.quiet

    def rest(self) -> None:
        """The Mac is quiet: give up what can be made again."""
        self.connection.rest()
        self.commands.rest()
        for identity in self.device.identities:
            identity.rest()

    def go_down(self, *, in_order: bool) -> None:
        """The power goes: whatever ran is gone. ``in_order`` as in a shutdown, where connections are closed."""
        self.sessions.stop(WENT_DOWN)
        self.background.abandon(in_order=in_order)
        self.pushes.forget(WENT_DOWN)
        self.connection.power_lost(in_order=in_order)
        self.device.lose_power()
        if not self.device.session.owes_result:
            self.commands.forget(WENT_DOWN)

    def close(self) -> None:
        """The end of the run: every connection is closed, every timer forgotten."""
        self.sessions.stop(RUN_ENDED)
        self.power.stop()
        self.background.close()
        self.connection.hang_up()


class MDMClient:
    """One Mac. ``boots`` counts how often it came up again; ``watch`` hears what it has done.

    ``index`` is its place in the fleet, ``segment`` the subnet that it is in.
    """

    __slots__ = (
        "_active",
        "_environment",
        "_gateway",
        "_idle_store",
        "_kept",
        "_kept_enrolled",
        "_kept_left",
        "_resumption",
        "boots",
        "index",
        "segment",
        "watch",
    )

    def __init__(self, device: Device, environment: Environment) -> None:
        self._lie_down(device.mac.index, device.mac.segment, environment, GatewaySide(), None)
        self._wake_up(device)

    @classmethod
    def at_rest(
        cls, index: int, segment: int, environment: Environment, gateway: GatewaySide, idle_store: IdleStore
    ) -> MDMClient:
        """The Mac of this index, in this subnet, whose Device is on the shelf until it is asked for."""
        client = cls.__new__(cls)
        client._lie_down(index, segment, environment, gateway, idle_store)
        return client

    # At rest and awake.

    def _lie_down(
        self, index: int, segment: int, environment: Environment, gateway: GatewaySide, idle_store: IdleStore | None
    ) -> None:
        self.index = index
        self.segment = segment
        self.boots = 0
        self.watch: Watch | None = None
        self._environment = environment
        self._gateway = gateway
        self._idle_store = idle_store
        self._kept = b""
        self._kept_enrolled = False
        self._kept_left = False
        self._resumption: Resumption | None = None
        self._active: ActiveMac | None = None

    def _wake_up(self, device: Device | None = None) -> ActiveMac:
        if device is None:
            if self._idle_store is None:
                raise MisuseError("a Mac that is at rest, but on no shelf")
            device = self._idle_store.fetch(self.index, self._kept)
            self._kept = b""
        environment = self._environment
        self._resumption = self._resumption or environment.resumption_of(device.mac)
        pushes = PushListener(device, environment, self._gateway)
        background = BackgroundTasks(device, environment, self)
        power = PowerTimer(device.power, environment.reactor, self._power_changed)
        lom = LOMPresence(device, environment.network, self)
        connection = SessionConnection(environment, self._resumption)
        commands = Commands(device, environment, background, self)
        sessions = Sessions(
            device,
            environment,
            connection,
            commands,
            pushes=pushes,
            background=background,
            power=power,
            lom=lom,
            watched=self,
        )
        self._active = ActiveMac(device, pushes, background, power, lom, connection, commands, sessions)
        return self._active

    @property
    def _parts(self) -> ActiveMac:
        return self._active or self._wake_up()

    @property
    def device(self) -> Device:
        """The Mac itself. Whoever asks wakes it; keep the client, not the Device."""
        return self._parts.device

    @property
    def pushes(self) -> PushListener:
        """Its side of APNs; as for ``device``."""
        return self._parts.pushes

    @property
    def resting(self) -> bool:
        """Whether nothing of it is there but what lies on the shelf."""
        return self._active is None

    @property
    def connected(self) -> bool:
        """Whether its connection for sessions is open."""
        return self._active is not None and self._active.connection.connected

    @property
    def in_session(self) -> bool:
        """Whether a session is open."""
        return self._active is not None and self._active.device.session.state is not State.CLOSED

    @property
    def open_session(self) -> Operation | None:
        """The record of the session that is open; None where none is, or where it has failed already."""
        return None if self._active is None else self._active.sessions.open

    @property
    def enrolled(self) -> bool:
        """Whether it is managed; nobody is woken for that."""
        return self._kept_enrolled if self._active is None else self._active.device.enrolment is not None

    @property
    def left(self) -> bool:
        """Whether it left its management, and did not enrol again; nobody is woken for that."""
        return self._kept_left if self._active is None else self._active.device.left_at is not None

    def rest(self) -> bool:
        """Lie down on the shelf, if there is nothing to do and no connection open. Returns whether it is at rest.

        A Mac that is connected, and quiet, gives up what it can make again.
        """
        active = self._active
        if active is None:
            return True
        if self._idle_store is None or not active.quiet:
            return False
        if active.connection.connected:
            active.rest()
            return False
        self._kept = self._idle_store.lay(active.device)
        self._kept_enrolled = active.device.enrolment is not None
        self._kept_left = active.device.left_at is not None
        self._active = None
        return True

    def close(self) -> None:
        """The end of the run: close the connection, forget every timer."""
        if self._active is not None:
            self._active.close()

    # With its server.

    async def enroll(self, fetch: FetchProfile, due: Moment | None = None) -> None:
        """Enrol with the profile that ``fetch`` gives. Raises PeerError; the Mac is then managed as before.

        ``due`` is when it was to begin, and what its time is counted from; None is now.
        """
        await enroll(self._parts, self._environment, fetch, due or self._environment.now())

    async def enroll_at(self, url: str, due: Moment | None = None) -> None:
        """Enrol with the profile at ``url``; else as ``enroll``."""
        await self.enroll(lambda: self._parts.background.fetch_profile(url), due)

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
        return self._parts.sessions.wake(due)

    # Power.

    def cut_mains(self) -> None:
        """The mains power goes: all of the Mac is dark, its LOM Device end too."""
        parts = self._parts
        parts.power.cut_mains()
        parts.lom.look()

    def restore_mains(self) -> None:
        """The mains power is back; the Mac boots if it ran before."""
        parts = self._parts
        parts.power.restore_mains()
        parts.lom.look()

    def _power_changed(self, event: PowerEvent) -> None:
        match event:
            case PowerEvent.SHUTDOWN_STARTED:
                self._parts.go_down(in_order=True)
            case PowerEvent.WENT_DOWN:
                self._parts.go_down(in_order=False)
                if self.watch is not None:
                    self.watch.went_down(self)
            case PowerEvent.CAME_UP:
                self.boots += 1
                self.wake()
                self.pushes.back()

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
        parts = self._parts
        answer, events = parts.device.receive_lom_request(request, controller, self._environment.reactor.seconds())
        parts.power.apply(events)
        return answer


ENROLLED_ANEW = "the Mac enrolled anew"

FetchProfile = Callable[[], Awaitable[bytes]]


async def enroll(mac: ActiveMac, environment: Environment, fetch: FetchProfile, since: Moment) -> None:
    """Enrol with the profile that ``fetch`` gives. Raises PeerError; the Mac is then managed as before.

    ``since`` is what its time is counted from; the wait for an RSA key is left out, for that is none of the server's.
    """
    device, pushes = mac.device, mac.pushes
    index, facts = device.mac.index, {"udid": device.mac.udid}
    with environment.begin("enroll", index, since, facts) as record:
        pushes.enrolling = True
        key_wait = KeyWait()
        try:
            profile = await mac.background.drive(enrol(device, await fetch()), key_wait)
        except PeerError:
            pushes.enrolling = False
            pushes.back()
            raise
        finally:
            record.key_wait = key_wait.seconds
            pushes.enrolling = False
            environment.warn_each(device.take_warnings())
        mac.sessions.end(ENROLLED_ANEW)
        _judge_signer(device, profile, environment)
        mac.lom.look()
    pushes.enrolled()


def _judge_signer(device: Device, profile: Profile, environment: Environment) -> None:
    anchors = () if device.enrolment is None else device.enrolment.anchors
    if profile.signers and not environment.trusts(profile.signers, anchors):
        environment.warn(f"the enrolment profile “{profile.name}” is signed by someone who is not trusted")
