"""What a Mac does at a time of its own, without a session: its software update.

The alarm is the client's, so that a Mac may be idle while it waits for months.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.device.mac import Device
from agent.device.updates import Update
from agent.device.updating import advance, installed, next_deadline, start_update
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power import PowerTimer

_CLOCK_ERROR = 0.001  # seconds by which an alarm may be early on the wall clock: rounding of its conversion


class Upkeep:
    """The upkeep of one Mac. ``set_alarm`` is called with the time, on the clock, at which ``due`` is to be called."""

    __slots__ = ("_device", "_environment", "_power", "_set_alarm")

    def __init__(
        self, device: Device, environment: Environment, power: PowerTimer, set_alarm: Callable[[float | None], object]
    ) -> None:
        self._device = device
        self._environment = environment
        self._power = power
        self._set_alarm = set_alarm

    def update_software(self, update: Update) -> None:
        """Start a software update."""
        start_update(self._device, update, self._environment.wall_clock())
        self.carry_on()

    def booted(self) -> None:
        """The Mac has booted: an update that was being installed is in effect."""
        installed(self._device)
        self.carry_on()

    def carry_on(self) -> None:
        """Set the alarm. Call it after anything that changes what is due; nothing is while the Mac is off."""
        deadline = next_deadline(self._device)
        if deadline is None or not self._device.running:
            self._set_alarm(None)
        else:
            self._set_alarm(deadline - self._environment.wall_clock() + self._environment.clock.seconds())

    def due(self) -> None:
        """Do what is due."""
        now = self._environment.wall_clock() + _CLOCK_ERROR
        events = advance(self._device, now, self._environment.clock.seconds())
        self._environment.changed(self._device.mac.index)
        self.carry_on()
        self._power.apply(events)
