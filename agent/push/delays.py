"""The delay of a push from its acceptance to the Mac, and the power saving that holds pushes back.

Source for priorities: Apple, "Sending notification requests to APNs", apns-priority: 10 immediately, 5 "based on power
considerations on the user's device", 1 "prioritize the device's power considerations over all other factors".
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

LOWEST_PRIORITY_WINDOWS = 4  # undocumented: how many windows of priority 5 make one of priority 1
_GOLDEN = 0.6180339887498949  # the golden ratio's fraction spreads the Macs' windows most evenly

# From a random number (0 to 1, without 1) to seconds.
Delay = Callable[[float], float]


def no_delay(_chance: float) -> float:
    """No delay."""
    return 0.0


class PowerSaving(msgspec.Struct, frozen=True):
    """A Mac that saves power gets pushes of low priority only at the end of a window."""

    window: float = 0.0
    """Seconds between the windows of priority 5; 0 holds no push back. Each Mac's windows are at other times."""

    def not_before(self, priority: int, index: int, now: float) -> float:
        """The earliest delivery to Mac ``index``: 0 for immediately, else seconds on the clock of ``now``."""
        if not self.window or priority == 10:
            return 0.0
        length = self.window if priority == 5 else self.window * LOWEST_PRIORITY_WINDOWS
        phase = index * _GOLDEN % 1.0 * length
        return now + length - (now - phase) % length
