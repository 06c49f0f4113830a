"""The axes of the charts: where their ticks are, and what they say.

`templates/charts.js` does the same when a reader zooms or hides lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from agent.report import numbers

HEADROOM = 0.04  # above the values, as a share of the axis
HEADROOM_OF_BANDS = 0.14  # for the names of the phases
MOST_TIMES = 8  # ticks of a time axis

_PIXELS_A_TICK = 30
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_SHARES = (("0 %", 1), ("50 %", 2), ("90 %", 10), ("99 %", 100), ("99.9 %", 1e3), ("99.99 %", 1e4), ("99.999 %", 1e5))
_LEAST_LATENCY = 1e-7  # seconds: below anything that is measured, for a logarithm


class Unit(StrEnum):
    """What the values of a chart are."""

    COUNT = "count"
    RATE = "rate"
    SECONDS = "seconds"
    SHARE = "share"


class Tick(msgspec.Struct, frozen=True):
    """A tick at a place of the axis: a value, or its logarithm."""

    place: float
    words: str
    minor: bool = False
    """Left out where there is little room."""


class Axis(msgspec.Struct, frozen=True):
    """An axis from one place to another."""

    first: float
    last: float
    ticks: Sequence[Tick]

    def percent(self, place: float) -> float:
        """Where a place is on the axis."""
        return 100 * (place - self.first) / (self.last - self.first)


def logarithm(value: float) -> float:
    """The place of a value on a logarithmic axis."""
    return math.log10(max(value, _LEAST_LATENCY))


def times(seconds: float) -> Axis:
    """The time axis of a run."""
    last = max(seconds, 1.0)
    step = next((each for each in _TIMES if last <= each * MOST_TIMES), 0)
    step = step or _TIMES[-1] * math.ceil(last / (_TIMES[-1] * MOST_TIMES))
    places = range(0, math.floor(last) + 1, step)
    return Axis(0.0, last, [Tick(place, numbers.clock(place), bool(place // step % 2)) for place in places])


def percentiles(longest: float) -> Axis:
    """The logarithmic axis of 1 in ``longest`` and less."""
    longest = max(longest, 2.0)
    ticks = [Tick(math.log10(x), words, minor=x == 2) for words, x in _SHARES if x <= longest]
    return Axis(0.0, math.log10(longest), ticks)


def linear(most: float, unit: Unit, height: float, headroom: float) -> Axis:
    """An axis from 0 to ``most`` on so many pixels. Its headroom has no ticks, which would cross the phases' names."""
    most = most or 1.0
    last = most * (1 + headroom)
    rough = last / max(2.0, height / _PIXELS_A_TICK)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice for nice in (power, 2 * power, 5 * power, 10 * power) if rough <= nice)
    places = [number * step for number in range(math.floor(most * (1 + HEADROOM) / step) + 1)]
    return Axis(0.0, last, [Tick(place, words_of(place, unit)) for place in places])


def decades(least: float, most: float, height: float, headroom: float) -> Axis:
    """A logarithmic axis of seconds: ticks at 1, 2 and 5 in each decade, as many as fit on so many pixels."""
    first, last = logarithm(least) - 0.1, logarithm(most) + 0.1
    room = height / (last - first)
    steps = (1, 2, 5) if room > 75 else (1, 3) if room > 45 else (1,)
    powers = range(-7, 6, 1 if room > 16 else 2)
    values = [step * 10.0**power for power in powers for step in steps]
    ticks = [Tick(math.log10(value), words_of(value, Unit.SECONDS)) for value in values]
    ticks = [tick for tick in ticks if first <= tick.place <= last]
    return Axis(first, last + (last - first) * headroom, ticks)


def words_of(value: float, unit: Unit) -> str:
    """A value beside an axis: 1.5 k, 50 ms, 80 %."""
    if unit is Unit.SHARE:
        return f"{value * 100:.3g} %"
    if unit is Unit.SECONDS:
        names = ((0.9999, 1.0, " s"), (0.9999e-3, 1e3, " ms"), (0.0, 1e6, " µs"))
    else:
        names = ((0.9999e6, 1e-6, " M"), (0.9999e3, 1e-3, " k"), (0.0, 1.0, ""))
    factor, name = next((factor, name) for least, factor, name in names if value >= least)
    return f"{_short(value * factor)}{name}" if value else "0"


def _short(value: float) -> str:
    """Three significant digits, without an exponent and without zeros at the end."""
    rounded = float(f"{value:.3g}")
    return str(int(rounded)) if rounded.is_integer() else repr(rounded)
