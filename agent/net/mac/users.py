"""The user channel of an active Mac: the login of its user, the user's sessions, commands and pushes.

They are those of the device channel (`agent.net.mac.sessions.sessions` and the others), around a UserDevice.
"""

from __future__ import annotations

from twisted.logger import Logger

from agent.device.users.channel import UserDevice, log_in_steps, may_log_in
from agent.errors import PeerError
from agent.fleet.population import USER_CHANNEL
from agent.mdm.digest import DigestRefused
from agent.mdm.refusals import ResultRefused
from agent.measure.operations import Moment
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power.timer import LOMPresence, PowerTimer
from agent.net.mac.push import GatewaySide, PushListener
from agent.net.mac.sessions.background import BackgroundTasks
from agent.net.mac.sessions.commands import Commands, CurrentCommand, MacObserver, SimulatedMac
from agent.net.mac.sessions.connection import SessionConnection
from agent.net.mac.sessions.declarative import DeclarativeManagement
from agent.net.mac.sessions.sessions import Sessions
from agent.net.mac.upkeep import Upkeep
from agent.net.timing import Alarm
from agent.plists import PlistError
from agent.push.broker import Presence
from agent.push.store import Notification

LOGGED_OUT = "the user logged out"

_log = Logger()


class UserSide:
    """The Mac, as the parts of its user channel see it: an observer gets the commands, and not the sessions."""

    def __init__(self, mac: SimulatedMac) -> None:
        self.index = mac.index
        self._mac = mac

    @property
    def online(self) -> bool:
        """Whether the Mac can connect to its server."""
        return self._mac.online

    @property
    def observer(self) -> MacObserver | None:
        """The observer of the Mac's commands, for those of the user."""
        told = self._mac.observer
        return None if told is None else _Commands(told, self._mac)

    def go_offline(self, seconds: float) -> None:
        """Take the whole Mac offline."""
        self._mac.go_offline(seconds)

    def crash(self) -> None:
        """Let the whole Mac lose power."""
        self._mac.crash()

    def session_over(self) -> None:
        """Nothing follows a session of the user channel."""

    def end_user_channel(self, reason: str) -> None:
        """The user channel ends by itself."""


class _Commands(MacObserver):
    """Passes the commands of the user on, as those of the Mac."""

    def __init__(self, told: MacObserver, mac: SimulatedMac) -> None:
        self._told = told
        self._mac = mac

    def received(self, _mac: object, command: CurrentCommand) -> None:
        self._told.received(self._mac, command)

    def answered(self, _mac: object, command: CurrentCommand) -> None:
        self._told.answered(self._mac, command)

    def taken(self, _mac: object, command: CurrentCommand) -> None:
        self._told.taken(self._mac, command)

    def refused(self, _mac: object, command: CurrentCommand, failure: ResultRefused) -> None:
        self._told.refused(self._mac, command, failure)


class UserSessions(Sessions):
    """The sessions of a user. A server that does not know the user ends the channel until the next login."""

    __slots__ = ("_user",)

    def for_user(self, user: UserDevice) -> UserSessions:
        """Set the user; returns these sessions."""
        self._user = user
        return self

    def wake(self, due: Moment | None) -> bool:
        """Open a session of a user whom the server manages, or ask again when the open one ends."""
        return self._user.managed is True and super().wake(due)

    def _unenrolled(self, failure: PeerError | None) -> None:
        self._environment.warn(f"the server ended the user channel of a Mac: {failure}")
        self.end(LOGGED_OUT)
        self._user.managed = False


class UserChannel:
    """The runtime state of the user channel of ``mac``."""

    __slots__ = ("_environment", "_gateway", "_logging_in", "_login_due", "_mac", "background", "commands",
                 "connection", "device", "pushes", "sessions")  # fmt: skip

    def __init__(
        self,
        device: UserDevice,
        environment: Environment,
        gateway: GatewaySide,
        *,
        background: BackgroundTasks,
        declarative: DeclarativeManagement,
        mac: SimulatedMac,
        power: PowerTimer,
        lom: LOMPresence,
        upkeep: Upkeep,
    ) -> None:
        self.device = device
        self._environment = environment
        self._gateway = gateway
        self._logging_in = False
        self._login_due = False  # a login is to be told to the server, which the Mac cannot reach
        self._mac = mac
        side = UserSide(mac)
        own = GatewaySide(on_back=lambda index: gateway.on_back(USER_CHANNEL + index))
        self.pushes = PushListener(device, environment, own)
        self.background = background
        self.connection = SessionConnection(device, environment, None)
        self.commands = Commands(device, environment, self.background, side)
        self.sessions = UserSessions(
            device,
            environment,
            self.connection,
            self.commands,
            pushes=self.pushes,
            background=self.background,
            power=power,
            lom=lom,
            declarative=declarative,
            upkeep=upkeep,
            mac=side,
            poll=Alarm(environment.clock, self.wake),
        ).for_user(device)

    @property
    def quiet(self) -> bool:
        """Whether nothing of the channel is pending or open."""
        return (
            self.device.quiet
            and self.pushes.quiet
            and self.background.quiet
            and self.commands.quiet
            and self.sessions.quiet
            and not self.connection.connected
        )

    @property
    def presence(self) -> Presence:
        """Whether APNs can reach the user."""
        if self.device.enrollment is None:
            return Presence.UNKNOWN if self.device.left_at is None else Presence.LEFT
        if self._logging_in:
            return Presence.OFFLINE  # the server may push before it answers the TokenUpdate
        return self.pushes.presence if self.device.managed is True else Presence.UNKNOWN

    def log_in(self) -> None:
        """The user logs in, unless the Mac or its server is not ready for it; then the user's session opens."""
        if self._may_log_in():
            self._logging_in = True
            self.background.start(self._log_in)

    async def log_in_now(self) -> None:
        """As ``log_in``, and wait for the answers; a failure is recorded where it happens."""
        if not self._may_log_in():
            return
        self._logging_in = True
        try:
            await self._log_in()
        except PeerError as error:
            _log.info("{udid}: {error}", udid=self.device.mac.udid, error=error)

    def log_in_if_new(self) -> None:
        """The user logs in if the server has not answered to the present login yet."""
        if self.device.managed is None or self._login_due:
            self.log_in()

    def _may_log_in(self) -> bool:
        if not may_log_in(self.device.device) or self._logging_in:
            return False
        self._login_due = not self._mac.online
        return self._mac.online

    async def _log_in(self) -> None:
        try:
            await self.background.drive(log_in_steps(self.device))
        except (DigestRefused, PlistError) as error:  # the check-in itself succeeded
            self._environment.warn(f"the user channel of a Mac is not open: {error}")
            raise
        finally:
            self._logging_in = False
            self._environment.warn_each(self.device.take_warnings())
            self._environment.changed(self.device.mac.index)
        self.pushes.back()
        self.wake()

    def wake(self) -> bool:
        """Open a session, or ask again when the open one ends. No effect while the Mac is offline."""
        return self._mac.online and self.sessions.wake(None)

    def receive_push(self, notification: Notification) -> bool:
        """Open a session for a push. Returns False for one with another PushMagic or topic, which is ignored."""
        if self.device.managed is not True or not self.pushes.take(notification):
            return False
        self.wake()
        return True

    def back(self) -> None:
        """The Mac is online again: it opens a session, because it may have lost one and the push that it was for."""
        self.pushes.offline = False
        self.pushes.back()
        self.log_in_if_new()
        self.wake()

    def carry_on(self) -> None:
        """Go on with what a restored Mac did, in a session that delivers what is owed."""
        self.sessions.carry_on()
        self.wake()
        self.log_in_if_new()

    def stop(self, why: str, *, in_order: bool) -> None:
        """The Mac goes down or offline: end what runs; an undelivered result is kept."""
        self._logging_in = False
        self.sessions.stop(why)
        self.background.abandon(why, in_order=in_order)
        self.pushes.forget(why)
        if in_order:
            self.connection.hang_up()
        else:
            self.connection.power_lost(in_order=False)
        self.device.session.power_lost()
        if not self.device.session.owes_result:
            self.device.drop_follow_ups()
            self.commands.forget(why)

    def end(self, reason: str) -> None:
        """The Mac's enrollment ends, and the channel with it."""
        self._logging_in = self._login_due = False
        self.sessions.end(reason)
        self.background.abandon(reason, in_order=True)
        self.pushes.forget(reason)
        self.device.forget_enrollment()
        self._gateway.on_left(USER_CHANNEL + self.device.mac.index)

    def close(self, reason: str) -> None:
        """Close every connection and cancel every timer."""
        self.sessions.stop(reason)
        self.background.close()
        self.connection.hang_up()

    def free_memory(self) -> None:
        """Free the memory that a quiet channel can recreate."""
        self.connection.free_memory()
        self.commands.free_memory()
