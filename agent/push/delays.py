"""How long APNs takes from accepting a push to the Mac, as a distribution; and when it holds one back.

Source for priorities: Apple, "Sending notification requests to APNs", apns-priority: 10 immediately, 5 "based on power
considerations on the user's device", 1 "prioritize the device's power considerations over all other factors".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from agent.errors import OperatorError

LOWEST_PRIORITY_WINDOWS = 4  # undocumented: how many windows of priority 5 make one of priority 1
LONGEST_SECONDS = 86_400.0
_P99 = NormalDist().inv_cdf(0.99)
_GOLDEN = 0.6180339887498949  # the fraction that spreads the Macs' windows most evenly
_FORMS = "SECONDS, uniform:LOW:HIGH, exponential:MEAN or lognormal:MEDIAN:P99, in seconds"

Delay = Callable[[float], float]


def no_delay(_chance: float) -> float:
    """At once."""
    return 0.0


def parse_delay(text: str) -> Delay:
    """A distribution as the function from a chance (0 up to 1) to seconds. Raises OperatorError.

    ``0.2`` (always), ``uniform:0.1:2``, ``exponential:0.5`` (its mean), ``lognormal:0.3:5`` (its median and the 99th
    percentile).
    """
    kind, _, rest = text.partition(":") if ":" in text else ("constant", "", text)
    numbers = [_seconds(part, text) for part in rest.split(":")]
    match kind, numbers:
        case "constant", [seconds]:
            return lambda _chance: seconds
        case "uniform", [low, high] if low <= high:
            return lambda chance: low + (high - low) * chance
        case "exponential", [mean]:
            return lambda chance: min(LONGEST_SECONDS, -mean * math.log1p(-chance))
        case "lognormal", [median, p99] if 0.0 < median <= p99:
            sigma = math.log(p99 / median) / _P99
            return lambda chance: min(LONGEST_SECONDS, median * math.exp(sigma * _normal(chance)))
    raise OperatorError(f"the delay of pushes should be {_FORMS}, but is {text!r}")


def _normal(chance: float) -> float:
    return NormalDist().inv_cdf(min(max(chance, 1e-12), 1.0 - 1e-12))


def _seconds(text: str, whole: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= LONGEST_SECONDS:
        raise OperatorError(f"the delay of pushes should be {_FORMS}, but is {whole!r}")
    return seconds


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
