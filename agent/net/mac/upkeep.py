"""What a Mac does at a time of its own, without a session: its software update, apps, and reports of its status.

The alarm is the client's, so that a Mac may be idle while it waits for months.
"""

from __future__ import annotations

from typing import Protocol

from agent.device.app_installing import install_queued_apps, queued_app
from agent.device.ddm.synchronising import is_changed, recheck, refresh
from agent.device.mac import Device
from agent.device.software_update import Update
from agent.device.updating import advance, installed, next_deadline, start_update
from agent.errors import PeerError
from agent.net.mac.background import BackgroundTasks
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power import LOMPresence, PowerTimer

_CLOCK_ERROR = 0.001  # seconds by which an alarm may be early on the wall clock: rounding of its conversion
_RETRY_SECONDS = 15 * 60.0  # after which a report that the server did not accept is sent again; our choice


class UpkeptMac(Protocol):
    """What Upkeep needs of its Mac."""

    @property
    def online(self) -> bool:
        """Whether it can connect to its server, as far as its network goes."""

    def set_upkeep_alarm(self, deadline: float | None) -> None:
        """Call ``Upkeep.due`` at this time on the clock, also if the Mac is idle by then; None: not at all."""


class Upkeep:
    """The upkeep of one Mac, ``mac``."""

    __slots__ = ("_background", "_device", "_environment", "_lom", "_mac", "_power", "_refreshing", "_retry_at")

    def __init__(
        self,
        device: Device,
        environment: Environment,
        background: BackgroundTasks,
        power: PowerTimer,
        lom: LOMPresence,
        mac: UpkeptMac,
    ) -> None:
        self._device = device
        self._environment = environment
        self._background = background
        self._power = power
        self._lom = lom
        self._mac = mac
        self._refreshing = False  # a task for it runs or waits, unless the background tasks were abandoned
        self._retry_at: float | None = None

    def update_software(self, update: Update) -> None:
        """Start a software update."""
        start_update(self._device, update, self._environment.wall_clock())
        self._environment.changed(self._device.mac.index)
        self.reconsider()

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
            recheck(self._device)
        self.install_apps()
        self.reconsider()

    def reconsider(self) -> None:
        """Something may have changed: report what a server subscribed to, and set the alarm."""
        device = self._device
        if not device.declared.declarations and device.update is None:
            return
        if device.running and self._mac.online and self._retry_at is None and is_changed(device):
            self._refresh(full=False)
        self.carry_on()

    def carry_on(self) -> None:
        """Set the alarm. Nothing is due while the Mac is off."""
        # A report that is due while the Mac is offline is sent when it comes back.
        reports = (self._device.declared.full_report_at, self._retry_at) if self._mac.online else ()
        deadlines = (next_deadline(self._device), *reports)
        deadline = min((each for each in deadlines if each is not None), default=None)
        if deadline is None or not self._device.running:
            self._mac.set_upkeep_alarm(None)
        else:
            self._mac.set_upkeep_alarm(deadline - self._environment.wall_clock() + self._environment.clock.seconds())

    def due(self) -> None:
        """Do what is due."""
        now = self._environment.wall_clock() + _CLOCK_ERROR
        events = advance(self._device, now, self._environment.clock.seconds())
        full_report_at = self._device.declared.full_report_at
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
        if full_report_at is not None and now >= full_report_at and self._mac.online:
            self._device.declared.full_report_at = now + _RETRY_SECONDS  # unless it is sent
            self._refresh(full=True)
        self._environment.changed(self._device.mac.index)
        self.reconsider()
        self._power.apply(events)

    def _refresh(self, *, full: bool) -> None:
        if self._refreshing and not full and not self._background.quiet:
            return

        async def work() -> None:
            try:
                if self._device.enrollment is not None:
                    steps = refresh(self._device, self._environment.wall_clock, full=full)
                    await self._background.drive(steps)
            except PeerError:
                self._retry_at = self._environment.wall_clock() + _RETRY_SECONDS
                raise
            finally:
                self._refreshing = False
                self._lom.update()
                self._environment.changed(self._device.mac.index)
                self.carry_on()

        self._refreshing = True
        self._background.start(work)
