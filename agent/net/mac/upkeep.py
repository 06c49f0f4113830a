"""What a Mac does at a time of its own, without a session: its software update, apps, and reports of its status.

The alarm is the client's, so that a Mac may be idle while it waits for months.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from agent.device.app_installing import install_queued_apps, queued_app
from agent.device.ddm.synchronising import (
    DeclarationsMalformed,
    forget_failures,
    is_changed,
    recheck,
    refresh,
    synchronise,
)
from agent.device.mac import Device
from agent.device.software_update import Update
from agent.device.updating import advance, installed, next_deadline, start_update
from agent.errors import PeerError
from agent.mdm.refusals import ServerRefused, is_temporary
from agent.net.mac.background import BackgroundTasks
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power import LOMPresence, PowerTimer
from agent.profiles.enrollment import Enrollment

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

    __slots__ = (
        "_background",
        "_device",
        "_environment",
        "_lom",
        "_mac",
        "_power",
        "_refreshing",
        "_retry_at",
        "_stopped",
    )

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
        self._stopped = False

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
        self.back()

    def back(self) -> None:
        """The Mac can connect to its server again: it does not wait with what failed meanwhile."""
        self._retry_at = None
        forget_failures(self._device)
        self.reconsider()

    def reconsider(self) -> None:
        """Something may have changed: report what a server subscribed to, and set the alarm."""
        device = self._device
        if not device.declared.declarations and device.update is None and device.synchronising is None:
            return
        may_report = device.running and self._mac.online and self._retry_at is None
        if may_report and (device.synchronising is not None or is_changed(device)):
            self._start(full=False)
        self.carry_on()

    def stop(self) -> None:
        """Do nothing any more, at the end of the run; tasks that end later set no alarm."""
        self._stopped = True
        self._mac.set_upkeep_alarm(None)

    def carry_on(self) -> None:
        """Set the alarm. Nothing is due while the Mac is off."""
        if self._stopped:
            return
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
            self._start(full=True)
        self._environment.changed(self._device.mac.index)
        self.reconsider()
        self._power.apply(events)

    def synchronise(self, tokens: bytes) -> None:
        """Update the declarations. ``tokens`` is Data of the command, or empty."""
        self._device.synchronising = tokens
        self._refreshing = True
        self._background.start(partial(self._refresh, tokens, full=False))

    def _start(self, *, full: bool) -> None:
        """Report, unless a task does that already; before it, continue with an update of the declarations."""
        if self._refreshing and not full and not self._background.quiet:
            return
        self._refreshing = True
        self._background.start(partial(self._refresh, self._device.synchronising, full=full))

    async def _refresh(self, tokens: bytes | None, *, full: bool) -> None:
        device, now, enrollment = self._device, self._environment.wall_clock, self._device.enrollment
        device.synchronising = tokens
        try:
            if enrollment is not None:
                steps = refresh(device, now, full=full) if tokens is None else synchronise(device, tokens, now)
                await self._background.drive(steps)
            device.synchronising = None
        except PeerError as error:
            again = tokens is not None and _is_temporary(error) and _is_same(enrollment, device.enrollment)
            device.synchronising = b"" if again else None  # these tokens may be old by then
            self._retry_at = now() + _RETRY_SECONDS
            raise
        finally:
            self._refreshing = False
            self._lom.update()  # a declared profile may have a LOM payload
            self._environment.changed(device.mac.index)
            self.carry_on()


def _is_temporary(error: PeerError) -> bool:
    """Whether an update of the declarations may succeed later."""
    if isinstance(error, ServerRefused):
        return is_temporary(error.status)
    return not isinstance(error, DeclarationsMalformed)


def _is_same(before: Enrollment | None, now: Enrollment | None) -> bool:
    """Whether it is the same enrollment, possibly renewed."""
    return before is not None and now is not None and before.topic == now.topic
