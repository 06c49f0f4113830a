"""The time in which a Mac is offline: away from its server, and perhaps from its subnet too."""

from __future__ import annotations

from collections.abc import Callable

from agent.net.timing import Alarm, Clock


class Absence:
    """One absence, from the moment it is made. ``over`` is called when its time is over; it has none at first.

    ``off_subnet`` is whether the Mac is unreachable for LOM as well.
    """

    __slots__ = ("_alarm", "_clock", "_until", "off_subnet")

    def __init__(
        self, clock: Clock, over: Callable[[], object], *, off_subnet: bool = False, left: float | None = None
    ) -> None:
        """``left`` is how many seconds are left of a recorded absence, which ``carry_on`` continues."""
        self.off_subnet = off_subnet
        self._clock = clock
        self._alarm = Alarm(clock, over)
        self._until = None if left is None else clock.seconds() + left

    @property
    def left(self) -> float | None:
        """Seconds until it is over by itself; None: not by itself."""
        return None if self._until is None else max(0.0, self._until - self._clock.seconds())

    def set(self, seconds: float | None) -> None:
        """Have it be over in this many seconds; None: not by itself."""
        self._until = None if seconds is None else self._clock.seconds() + seconds
        self.carry_on()

    def carry_on(self) -> None:
        """Set the alarm of a recorded absence."""
        self._alarm.set_at(self._until)

    def cancel(self) -> None:
        """Cancel the alarm."""
        self._alarm.cancel()
