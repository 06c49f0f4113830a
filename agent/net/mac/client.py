"""One Mac on the network: it enrolls, opens sessions with its server, answers LOM requests, goes down and boots.

An MDMClient exists for every Mac of the fleet that was used so far. The runtime state that only an active Mac needs
(ActiveMac) is created around its Device on first use; for an idle Mac only the serialised Device is kept, and its open
connection for the next session. The client is also the Mac's LOM endpoint: a Controller's request changes its power,
which cuts its connections and starts its boot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Protocol

from twisted.internet.defer import succeed

from agent.device.installing.profiles import enrollment_steps, resumed_enrollment_steps
from agent.device.mac import Device
from agent.device.security.firmware import set_pending_firmware_password
from agent.device.steps import Steps
from agent.device.stored.packed import Kept
from agent.device.stored.record import activity_record, device_record, restore_activity, restore_device
from agent.errors import MisuseError, PeerError
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.power import PowerEvent
from agent.lom.requests import PowerRequest
from agent.mdm.commands import Command
from agent.mdm.results import Status
from agent.measure.operations import Moment, Operation
from agent.net.http.resumption import Resumption
from agent.net.mac.active import ActiveMac, active_mac
from agent.net.mac.enrollment.enrolling import BeginEnrollment, enroll
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.keeping import MacRecord
from agent.net.mac.power.absence import Absence
from agent.net.mac.power.lom_requests import answer_lom
from agent.net.mac.power.timer import PowerTimer
from agent.net.mac.push import GatewaySide, PushListener
from agent.net.mac.sessions.commands import CurrentCommand, MacObserver
from agent.net.mac.sessions.connection import OpenConnection
from agent.net.timing import Alarm
from agent.pki.issuing.authority import Authority
from agent.profiles.profile import Profile
from agent.push.broker import Presence
from agent.push.store import Notification

FetchProfile = Callable[[], Awaitable[bytes]]


class IdleStore(Protocol):
    """Serialises the Devices of idle Macs: ``agent.device.stored.packed``."""

    def restore(self, index: int, kept: Kept) -> Device:
        """The Device of Mac ``index``, from what ``serialise`` returned; a new one where ``kept`` is empty."""

    def serialise(self, device: Device) -> Kept:
        """Serialise a Device."""

    def used(self, index: int) -> None:
        """Mac ``index`` opens a session: it becomes the most recently used one."""


class MDMClient:
    """One Mac.

    ``index`` is its index in the population, ``segment`` that of its subnet. ``boots`` counts its boots so far.
    ``observer`` is called with its results and sessions.
    """

    __slots__ = (
        "_absence",
        "_active",
        "_environment",
        "_gateway",
        "_idle_store",
        "_kept",
        "_kept_enrolled",
        "_kept_left",
        "_open",
        "_resumption",
        "_upkeep_alarm",
        "boots",
        "index",
        "observer",
        "segment",
    )

    def __init__(self, device: Device, environment: Environment) -> None:
        self._initialise(device.mac.index, device.mac.segment, environment, GatewaySide(), None)
        self._activate(device)

    @classmethod
    def idle(
        cls, index: int, segment: int, environment: Environment, gateway: GatewaySide, idle_store: IdleStore
    ) -> MDMClient:
        """An idle Mac, whose Device ``idle_store`` makes when it is first needed."""
        client = cls.__new__(cls)
        client._initialise(index, segment, environment, gateway, idle_store)
        return client

    # Idle and active.

    def _initialise(
        self, index: int, segment: int, environment: Environment, gateway: GatewaySide, idle_store: IdleStore | None
    ) -> None:
        self.index = index
        self.segment = segment
        self.boots = 0
        self.observer: MacObserver | None = None
        self._environment = environment
        self._gateway = gateway
        self._idle_store = idle_store
        self._kept: Kept = ()  # the serialised Device while idle; empty before the first use
        self._kept_enrolled = False
        self._kept_left = False
        self._open: OpenConnection | None = None  # while idle
        self._resumption: Resumption | None = None
        self._upkeep_alarm: Alarm | None = None  # it goes on while the Mac is idle
        self._active: ActiveMac | None = None
        self._absence: Absence | None = None  # while it is offline

    def _activate(self, device: Device | None = None) -> ActiveMac:
        if device is None:
            if self._idle_store is None:
                raise MisuseError("expected a store for an idle Mac, found none")
            device = self._idle_store.restore(self.index, self._kept)
            self._kept = ()
        environment = self._environment
        self._resumption = self._resumption or environment.resumption_of(device.mac)
        # The alarm calls the client, not the timer that sets it: a cycle would keep it until a garbage collection.
        power = PowerTimer(
            device.power, environment.clock, self._power_changed, Alarm(environment.clock, self._power_due)
        )
        active = self._active = active_mac(device, environment, self._gateway, self._resumption, power, self)
        kept, self._open = self._open, None
        if kept is not None:
            kept.connection.when_closed = None
            active.connection.continue_on(kept, device.enrollment)
        return active

    @property
    def _parts(self) -> ActiveMac:
        return self._active or self._activate()

    @property
    def device(self) -> Device:
        """The simulated Mac. Makes an idle Mac active; keep a reference to the client, not to the Device."""
        return self._parts.device

    @property
    def pushes(self) -> PushListener:
        """The Mac's side of APNs. Makes an idle Mac active."""
        return self._parts.pushes

    @property
    def is_idle(self) -> bool:
        """Whether it is idle: only its serialised Device is in memory."""
        return self._active is None

    @property
    def is_at_rest(self) -> bool:
        """Whether it stays active only because its connection is open."""
        return self._active is not None and self._active.quiet and self._active.connection.connected

    @property
    def is_untouched(self) -> bool:
        """Whether it is as it was made from the seed: nobody has used it yet."""
        return self._active is None and not self._kept

    @property
    def undelivered(self) -> CurrentCommand | None:
        """The command whose result the server has not accepted yet, if there is one."""
        return None if self._active is None else self._active.commands.undelivered

    @property
    def connected(self) -> bool:
        """Whether its connection for sessions is open."""
        return self._open is not None if self._active is None else self._active.connection.connected

    @property
    def open_session(self) -> Operation | None:
        """The record of the open session; None where none is open or its record has ended already."""
        return None if self._active is None else self._active.sessions.open

    @property
    def offline(self) -> bool:
        """Whether a fault rule keeps it offline."""
        return self._absence is not None

    @property
    def enrolled(self) -> bool:
        """Whether it is managed. Does not make an idle Mac active."""
        return self._kept_enrolled if self._active is None else self._active.device.enrollment is not None

    @property
    def left(self) -> bool:
        """Whether it was unenrolled and did not enroll again. Does not make an idle Mac active."""
        return self._kept_left if self._active is None else self._active.device.left_at is not None

    def make_idle(self) -> bool:
        """Become idle, if nothing is pending; returns whether the Mac is idle. An open connection stays open."""
        active = self._active
        if active is None:
            return True
        if self._idle_store is None or not active.quiet:
            return False
        device = active.device
        self._open = active.connection.leave_open(device.enrollment)
        if self._open is not None:
            self._open.connection.when_closed = self._closed
        self._kept = self._idle_store.serialise(device)
        self._kept_enrolled = device.enrollment is not None
        self._kept_left = device.left_at is not None
        self._active = None
        return True

    def free_memory(self) -> None:
        """Free the memory that a quiet Mac can recreate; it stays active."""
        if self._active is not None and self._active.quiet:
            self._active.free_memory()

    def _closed(self) -> None:
        """The connection of the idle Mac was closed."""
        self._open = None

    def _hang_up(self) -> None:
        """Close the connection of the idle Mac, if one is open."""
        kept, self._open = self._open, None
        if kept is not None:
            kept.connection.close()

    def close(self) -> None:
        """Close every connection and cancel every timer, at the end of the run."""
        if self._absence is not None:
            self._absence.cancel()
        if self._active is not None:
            self._active.close()
        self._hang_up()
        self.set_upkeep_alarm(None)

    def retire(self, reason: str) -> None:
        """The Mac is no more: cut short what it does, for this reason, and leave its LOM network."""
        active = self._active
        if self._absence is not None:
            self._absence.cancel()
        if active is not None:
            active.sessions.end(reason)
            active.upkeep.retire(reason)
            active.power.stop()
            active.background.abandon()
            active.pushes.forget(reason)
            self.end_user_channel(reason)
        self._hang_up()
        self.set_upkeep_alarm(None)
        self._environment.network.remove(self)
        self._gateway.on_left(self.index)

    # From one process to the next.

    def record(self) -> tuple[bytes, MacRecord]:
        """What is installed on it, and what it does, for ``restore``."""
        device, now, undelivered = self.device, self._environment.clock.seconds(), self.undelivered
        absence, user = self._absence, self._parts.user
        of_user = None if user is None else user.commands.undelivered
        return device_record(device), MacRecord(
            activity=activity_record(device, now),
            boots=self.boots,
            offline=absence is not None,
            offline_left=None if absence is None else absence.left,
            off_subnet=absence is not None and absence.off_subnet,
            request_type="" if undelivered is None else undelivered.command.request_type,
            status="" if undelivered is None else undelivered.status.value,
            user_request_type="" if of_user is None else of_user.command.request_type,
            user_status="" if of_user is None else of_user.status.value,
        )

    def restore(self, installed: bytes, record: MacRecord) -> None:
        """Become a Mac that another process recorded; ``carry_on`` has it act. Raises as ``restore_device``."""
        parts, clock = self._parts, self._environment.clock
        session = record.activity.session
        restore_device(parts.device, installed)
        restore_activity(parts.device, record.activity, clock.seconds())
        parts.lom.update()
        self.boots = record.boots
        if record.offline:
            self._absence = Absence(clock, self.come_back, off_subnet=record.off_subnet, left=record.offline_left)
            parts.pushes.offline = True
            if parts.user is not None:
                parts.user.pushes.offline = True
        if session.result:
            parts.commands.resume(Command(session.command_uuid, record.request_type, {}), Status(record.status))
        of_user = record.activity.user_session
        if parts.user is not None and of_user is not None and of_user.result and record.user_status:
            command = Command(of_user.command_uuid, record.user_request_type, {})
            parts.user.commands.resume(command, Status(record.user_status))

    def carry_on(self, *, in_session: bool) -> None:
        """Set the timers of a restored Mac. ``in_session``: a session was open, so that it opens one."""
        parts = self._parts
        parts.power.apply(())
        if self._absence is not None:
            self._absence.carry_on()
        parts.sessions.carry_on()
        if parts.user is not None:
            parts.user.carry_on()
        parts.upkeep.install_apps()
        parts.upkeep.reconsider()
        if in_session:
            self.wake()

    # With its server.

    async def enroll(self, fetch: FetchProfile, due: Moment | None = None, polling_limit: float = inf) -> None:
        """Enroll with the profile that ``fetch`` returns. Raises PeerError; the enrollment before it then stays.

        ``due`` is when it was to start, from which its time counts; None is now. The wait for an RSA key is recorded
        apart, because the server does not cause it. A SCEP CA that answers PENDING is polled for ``polling_limit``
        seconds at most.
        """
        mac = self._parts
        settings = mac.device.settings
        before = settings.awaiting_configuration, settings.automated
        settings.awaiting_configuration = settings.automated = False

        async def steps() -> Steps[Profile]:
            return enrollment_steps(mac.device, await fetch())

        try:
            await self._enroll(steps, due, polling_limit)
        except PeerError:
            settings.awaiting_configuration, settings.automated = before  # of an enrollment that it has already
            raise

    async def resume_enrollment(self, cut_short: str | None = None) -> None:
        """Continue the enrollment that another process began. Raises PeerError; it can then be continued again.

        Its record succeeds, or is cut short for this reason where a part of an enrollment is no measurement.
        """
        device = self._parts.device
        unfinished = device.enrolling
        if unfinished is not None:
            await self._enroll(lambda: succeed(resumed_enrollment_steps(device, unfinished)), None, cut_short=cut_short)

    def abandon_enrollment(self) -> None:
        """Forget the enrollment that another process began. A Mac that has another one goes on with that."""
        mac = self._parts
        mac.device.enrolling = None
        self._environment.changed(self.index)
        mac.pushes.back()
        self.wake()

    async def _enroll(
        self,
        begin: BeginEnrollment,
        due: Moment | None,
        polling_limit: float = inf,
        cut_short: str | None = None,
    ) -> None:
        mac = self._parts
        await enroll(
            mac,
            self._environment,
            begin,
            due,
            offline=self.offline,
            polling_limit=polling_limit,
            cut_short=cut_short,
        )
        if self.observer is not None:
            self.observer.enrolled(self)
        mac.pushes.enrolled()
        if mac.user is not None:
            await mac.user.log_in_now()

    async def enroll_at(self, url: str, due: Moment | None = None, polling_limit: float = inf) -> None:
        """Enroll with the profile at ``url``; otherwise as ``enroll``."""
        await self.enroll(lambda: self._parts.background.fetch_profile(url), due, polling_limit)

    async def enroll_automatically(
        self,
        url: str,
        authority: Authority,
        due: Moment | None = None,
        polling_limit: float = inf,
        *,
        awaiting: bool = True,
    ) -> None:
        """Enroll as in Setup Assistant, with the profile that the server has for this Mac; otherwise as ``enroll``.

        ``authority`` issues the identity that signs the Mac's MachineInfo. ``awaiting``: the Mac stays in Setup
        Assistant until the server sends DeviceConfigured, and nobody logs in.
        """

        def fetch() -> Awaitable[bytes]:
            parts = self._parts
            parts.device.settings.awaiting_configuration, parts.device.settings.automated = awaiting, True
            return parts.background.fetch_automated_profile(url, authority, parts.upkeep.install)

        await self.enroll(fetch, due, polling_limit)

    def receive_push(self, notification: Notification) -> bool:
        """Open a session for a push. Returns False for one with another PushMagic or topic, which is ignored."""
        if not self.pushes.take(notification):
            return False
        if self.observer is not None:
            self.observer.pushed(self, notification)
        self.wake()
        return True

    def wake(self, due: Moment | None = None) -> bool:
        """Open a session, or ask for commands again when the open one ends; returns whether one was opened.

        Called for a push, after a boot, and to poll. No effect on a Mac that is off or not enrolled. ``due`` is when
        the session was to start, from which its time counts; None is now.
        """
        if self._absence is not None:
            return False
        parts = self._parts
        if self._idle_store is not None:
            self._idle_store.used(self.index)
        if parts.user is not None and not self._gateway.pushes:
            parts.user.wake()  # nothing else would
        return parts.sessions.wake(due)

    # The user channel.

    def receive_user_push(self, notification: Notification) -> bool:
        """Open a session of the logged-in user for a push; otherwise as ``receive_push``."""
        user = self._parts.user
        return user is not None and self._absence is None and user.receive_push(notification)

    @property
    def user_name(self) -> str:
        """``UDID:USERID`` of the logged-in user whom the server manages; empty if there is none."""
        user = self.device.user
        return f"{self.device.mac.udid}:{user.account.user_id}" if user is not None and user.managed else ""

    @property
    def user_presence(self) -> Presence:
        """Whether APNs can reach the logged-in user."""
        user = self._parts.user
        return Presence.UNKNOWN if user is None else user.presence

    def session_over(self) -> None:
        """A session has ended: the user logs in if the Mac has left Setup Assistant in it."""
        user = self._parts.user
        if user is not None:
            user.log_in_if_new()

    def end_user_channel(self, reason: str) -> None:
        """The enrollment ends, and with it the user channel."""
        user = self._parts.user
        if user is not None:
            user.end(reason)

    @property
    def online(self) -> bool:
        """Whether it can connect to its server, as far as its network goes."""
        return self._absence is None

    def go_offline(self, seconds: float) -> None:
        """Close the connections to the server, and open none for this long; then open a session. Pushes are stored.

        LOM links are not to the server: the Mac stays on its subnet.
        """
        self._lose_network().set(seconds)

    def leave_network(self) -> None:
        """Be offline, and unreachable for LOM, until ``come_back``."""
        absence = self._lose_network()
        absence.set(None)
        absence.off_subnet = True
        self._environment.network.lom_changed(self)

    def _lose_network(self) -> Absence:
        self._parts.go_offline()
        self._environment.changed(self.index)
        if self._absence is None:
            self._absence = Absence(self._environment.clock, self.come_back)
        return self._absence

    def come_back(self) -> None:
        """Be online again, at the end of the time that ``go_offline`` was given or before it."""
        absence, self._absence = self._absence, None
        if absence is None:
            return
        absence.cancel()
        self._environment.changed(self.index)
        self.pushes.offline = False
        self.pushes.back()
        user = self._parts.user
        if user is not None:
            user.back()
        self._parts.upkeep.back()
        self.wake()

    def unenroll(self) -> None:
        """Remove the enrollment profile, as a user can. Raises MisuseError for a Mac that is not enrolled."""
        self._parts.sessions.leave("a user removed the enrollment profile", check_out=self.online)

    # Power.

    def press_power(self, request: PowerRequest) -> None:
        """Somebody uses the power button. Raises RequestRefused where it has no effect."""
        self._parts.power.press(request)

    def cut_mains(self) -> None:
        """The mains power is cut: the Mac and its LOM Device are off."""
        parts = self._parts
        parts.power.cut_mains()
        parts.lom.update()
        self._tell_power()

    def restore_mains(self, *, boot: bool = True) -> None:
        """The mains power is back; with ``boot`` the Mac boots if it ran before, otherwise it stays off."""
        parts = self._parts
        parts.power.restore_mains(boot=boot)
        parts.lom.update()
        self._tell_power()

    def pull_the_plug(self) -> None:
        """The plug is pulled and put back: what is in progress is lost, the Mac is off, and its LOM Device answers."""
        self.cut_mains()
        self.restore_mains(boot=False)

    def crash(self) -> None:
        """The mains power fails for a moment: what is in progress is lost, and the Mac boots if it ran."""
        self.cut_mains()
        self.restore_mains()

    def _power_due(self) -> None:
        self._parts.power.advance()

    def _power_changed(self, event: PowerEvent) -> None:
        match event:
            case PowerEvent.SHUTDOWN_STARTED:
                self._parts.go_down(in_order=True)
            case PowerEvent.WENT_DOWN:
                self._parts.go_down(in_order=False)
                if self.observer is not None:
                    self.observer.went_down(self)
            case PowerEvent.CAME_UP:
                self.boots += 1
                set_pending_firmware_password(self.device)
                self._parts.upkeep.booted()
                self.wake()
                self.pushes.back()
                user = self._parts.user
                if user is not None:
                    user.log_in()
        self._tell_power()

    def _tell_power(self) -> None:
        self._environment.changed(self.index)
        if self.observer is not None:
            self.observer.power_changed(self)

    # What it does at a time of its own.

    def set_upkeep_alarm(self, deadline: float | None) -> None:
        """Call ``Upkeep.due`` at this time on the clock, also if the Mac is idle by then; None: not at all."""
        if self._upkeep_alarm is None:
            if deadline is None:
                return
            self._upkeep_alarm = Alarm(self._environment.clock, self._upkeep_due)
        self._upkeep_alarm.set_at(deadline)

    def upkeep_changed(self) -> None:
        """What is due of its upkeep has changed."""
        if self._active is not None:
            self._active.upkeep.carry_on()

    def _upkeep_due(self) -> None:
        self._parts.upkeep.due()

    # The LOM endpoint.

    @property
    def lom_addresses(self) -> Sequence[str]:
        """Its link-local addresses, primary first."""
        return self.device.lom_addresses

    @property
    def lom(self) -> LOMConfiguration | None:
        """Its LOM configuration, or None; None also while it is off its subnet."""
        return None if self._absence is not None and self._absence.off_subnet else self.device.lom

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Carry out a Controller's request. Raises RequestDropped or RequestDelayed where a fault rule says so."""
        environment = self._environment
        if environment.faults is None and environment.exchanges is None:
            return self._answer_lom(request, controller)
        return answer_lom(environment, self.device.mac, request, lambda: self._answer_lom(request, controller))

    def unacknowledged_lom_answers(self, controller: str) -> Sequence[LinkAnswer]:
        """The recent answers that this Controller has not acknowledged."""
        return self.device.unacknowledged_lom_answers(controller, self._environment.clock.seconds())

    def lom_answer_arrived(self, uuid: str, controller: str, *, acknowledged: bool) -> None:
        """The Controller has acknowledged an answer, or its link has ended without that."""
        self.device.lom_answer_arrived(uuid, controller, acknowledged=acknowledged)
        self._environment.changed(self.index)

    def _answer_lom(self, request: LinkRequest, controller: str) -> LinkAnswer:
        parts = self._parts
        answer, events = parts.device.receive_lom_request(request, controller, self._environment.clock.seconds())
        parts.power.apply(events)
        self._environment.changed(self.index)
        if self.observer is not None:
            self.observer.asked(self, request, controller, answer.error)
        return answer
