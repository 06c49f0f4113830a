"""What a Mac does at a time of its own, without a session: its software update, apps, and reports of its status.

The alarm is the client's, so that a Mac may be idle while it waits for months.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from agent.device.installing.apps import install_queued_apps, queued_app
from agent.device.installing.software_update import Update
from agent.device.installing.updates import advance, cancel_update, installed, next_deadline, start_update
from agent.device.mac import Device
from agent.lom.power import Power
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power.timer import PowerTimer
from agent.net.mac.sessions.background import BackgroundTasks, MacStopped
from agent.net.mac.sessions.declarative import DeclarativeManagement, UpkeptMac

_CLOCK_ERROR = 0.001  # seconds by which an alarm may be early on the wall clock: rounding of its conversion


class Upkeep:
    """The upkeep of one Mac, ``mac``. ``channels`` is its declarative management, of each channel."""

    __slots__ = ("_awaited", "_background", "_channels", "_device", "_environment", "_mac", "_power", "_stopped")

    def __init__(
        self,
        device: Device,
        environment: Environment,
        background: BackgroundTasks,
        power: PowerTimer,
        mac: UpkeptMac,
        channels: tuple[DeclarativeManagement, ...],
    ) -> None:
        self._device = device
        self._environment = environment
        self._background = background
        self._power = power
        self._mac = mac
        self._channels = channels
        self._stopped = False
        self._awaited: Deferred[None] | None = None  # the end of an update that something waits for

    def update_software(self, update: Update) -> None:
        """Start a software update."""
        start_update(self._device, update, self._environment.wall_clock())
        self._environment.changed(self._device.mac.index)
        self.reconsider()

    async def install(self, update: Update) -> None:
        """Install a software update, and return when the Mac has booted with it. Raises MacStopped."""
        awaited: Deferred[None] = Deferred()
        self._awaited = awaited
        self.update_software(update)
        await awaited
        if not self._mac.online:
            raise MacStopped("the Mac went offline before it had the update")

    def interrupted(self, why: str) -> None:
        """The Mac goes down or offline: what waits for an update fails, unless the Mac restarts to install it."""
        update = self._device.update
        restarts = update is not None and update.installing and self._device.power.state is not Power.OFF
        if not restarts:
            self._fail(why)

    def _fail(self, why: str) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            cancel_update(self._device)
            awaited.errback(MacStopped(f"{why} before it had the update"))

    def install_apps(self) -> None:
        """Install the apps that wait for it, if the Mac can and there are any."""
        if self._device.running and self._mac.online and queued_app(self._device) is not None:
            self._background.start(self._install_apps)

    async def _install_apps(self) -> None:
        failures = await self._background.drive(install_queued_apps(self._device))
        self._environment.changed(self._device.mac.index)
        self._environment.warn_each(failures)

    def booted(self) -> None:
        """The Mac has booted: an update that was being installed is in effect."""
        if installed(self._device):
            for channel in self._channels:
                channel.updated()
            if self._awaited is not None:
                awaited, self._awaited = self._awaited, None
                awaited.callback(None)
        self.back()

    def back(self) -> None:
        """The Mac can connect to its server again."""
        self.install_apps()
        for channel in self._channels:
            channel.back()
        self.carry_on()

    def reconsider(self) -> None:
        """Something may have changed: report what a server subscribed to, and set the alarm."""
        for channel in self._channels:
            channel.reconsider()
        self.carry_on()

    def stop(self) -> None:
        """Do nothing any more, at the end of the run; tasks that end later set no alarm."""
        self._stopped = True
        self._mac.set_upkeep_alarm(None)

    def retire(self, reason: str) -> None:
        """The Mac is no more: what waits for an update fails."""
        self.stop()
        self._fail(reason)

    def carry_on(self) -> None:
        """Set the alarm. Nothing is due while the Mac is off, and no report while it is offline."""
        if self._stopped:
            return
        deadlines = [next_deadline(self._device)]
        if self._mac.online:
            deadlines += [each for channel in self._channels for each in channel.deadlines]
        deadline = min((each for each in deadlines if each is not None), default=None)
        if deadline is None or not self._device.running:
            self._mac.set_upkeep_alarm(None)
        else:
            self._mac.set_upkeep_alarm(deadline - self._environment.wall_clock() + self._environment.clock.seconds())

    def due(self) -> None:
        """Do what is due."""
        now = self._environment.wall_clock() + _CLOCK_ERROR
        events = advance(self._device, now, self._environment.clock.seconds())
        self._environment.changed(self._device.mac.index)
        if self._mac.online:
            for channel in self._channels:
                channel.due(now)
        self.carry_on()
        self._power.apply(events)
