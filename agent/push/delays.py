"""How long APNs takes from accepting a push to the Mac, as a distribution; and when it holds one back.

Source for priorities: Apple, "Sending notification requests to APNs", apns-priority: 10 immediately, 5 "based on power
considerations on the user's device", 1 "prioritize the device's power considerations over all other factors".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LOWEST_PRIORITY_WINDOWS = 4  # undocumented: how many windows of priority 5 make one of priority 1
_GOLDEN = 0.6180339887498949  # the fraction that spreads the Macs' windows most evenly

# From a chance (0 up to 1) to seconds.
Delay = Callable[[float], float]


def no_delay(_chance: float) -> float:
    """At once."""
    return 0.0


@dataclass(frozen=True, slots=True)
class PowerSaving:
    """A Mac that saves power takes a push of priority 5 every ``window`` seconds, of priority 1 less often still.

    0 holds nothing back. Each Mac has its windows at another time than the next one.
    """

    window: float = 0.0

    def not_before(self, priority: int, index: int, now: float) -> float:
        """When Mac ``index`` may get a push of this priority: 0 for at once, else seconds on the clock of ``now``."""
        if not self.window or priority == 10:
            return 0.0
        length = self.window if priority == 5 else self.window * LOWEST_PRIORITY_WINDOWS
        phase = index * _GOLDEN % 1.0 * length
        return now + length - (now - phase) % length
