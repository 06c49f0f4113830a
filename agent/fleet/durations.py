"""Distributions of durations (such as boot times) in seconds, and their text form.

Draws are reproducible: the random numbers come from ``Chance``, so a duration depends only on the seed, the index of
the Mac, the purpose and the number of earlier draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import msgspec

from agent.errors import MisuseError, OperatorError

SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 3600.0  # our limit
MOST_SIGMA = 2.0
_MOST_DEVIATIONS = 4.0  # a lognormal draw is clipped to this many sigma from the median; affects one in 16,000
_LEAST_CHANCE = 2.0**-53  # keeps probabilities away from 0 and 1, where the inverse normal distribution is infinite
_NORMAL = NormalDist()


class Constant(msgspec.Struct, frozen=True):
    """Always ``seconds``. Raises MisuseError if it is not from SHORTEST_SECONDS to LONGEST_SECONDS."""

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds(self)

    def __str__(self) -> str:
        return f"constant:{_number(self.seconds)}"

    def draw(self, _chance: Callable[[], float]) -> float:
        """The next duration, in seconds."""
        return self.seconds


class Uniform(msgspec.Struct, frozen=True):
    """Uniform from ``shortest`` to ``longest`` seconds. Raises MisuseError for an invalid range."""

    shortest: float
    longest: float

    def __post_init__(self) -> None:
        _check_seconds(self)
        if self.shortest > self.longest:
            raise MisuseError(f"the shortest, {self.shortest:g} s, is longer than the longest, {self.longest:g} s")

    def __str__(self) -> str:
        return f"uniform:{_number(self.shortest)},{_number(self.longest)}"

    def draw(self, chance: Callable[[], float]) -> float:
        """The next duration, in seconds."""
        return min(self.longest, self.shortest + (self.longest - self.shortest) * chance())


class LogNormal(msgspec.Struct, frozen=True):
    """Lognormal with this ``median`` in seconds; ``sigma`` is the standard deviation of the logarithm.

    ``sigma`` is from 0 to MOST_SIGMA. Draws are clipped to four sigma from the median, and to SHORTEST_SECONDS and
    LONGEST_SECONDS. Raises MisuseError for values out of bounds.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        if not SHORTEST_SECONDS <= self.median <= LONGEST_SECONDS:
            raise MisuseError(_bounds("median", self.median))
        if not 0.0 <= self.sigma <= MOST_SIGMA:
            raise MisuseError(f"sigma: expected 0 to {MOST_SIGMA:g}, found {self.sigma:g}")

    def __str__(self) -> str:
        return f"lognormal:{_number(self.median)},{_number(self.sigma)}"

    def draw(self, chance: Callable[[], float]) -> float:
        """The next duration, in seconds."""
        probability = min(max(chance(), _LEAST_CHANCE), 1.0 - _LEAST_CHANCE)
        deviations = min(max(_NORMAL.inv_cdf(probability), -_MOST_DEVIATIONS), _MOST_DEVIATIONS)
        seconds = self.median * math.exp(self.sigma * deviations)
        return min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)


Duration = Constant | Uniform | LogNormal


class Durations(msgspec.Struct, frozen=True):
    """A generator of the durations of one Mac: each call returns the next one in seconds."""

    distribution: Duration
    chance: Callable[[], float]

    def __call__(self) -> float:
        """The next duration, in seconds."""
        return self.distribution.draw(self.chance)


_FORMS: dict[str, tuple[type[Duration], int]] = {
    "constant": (Constant, 1),
    "uniform": (Uniform, 2),
    "lognormal": (LogNormal, 2),
}
_EXPECTED = "constant:SECONDS, uniform:SHORTEST,LONGEST or lognormal:MEDIAN,SIGMA"


def parse_duration(text: str) -> Duration:
    """Parse a distribution: ``constant:3``, ``uniform:1,3`` or ``lognormal:30,0.3``.

    Raises OperatorError for any other text, and for numbers out of bounds.
    """
    name, colon, rest = text.strip().partition(":")
    form, count = _FORMS.get(name, (Constant, 0))
    numbers = rest.split(",")
    if not colon or len(numbers) != count:
        raise OperatorError(f"expected {_EXPECTED}, found {text!r}")
    try:
        return form(*(float(number) for number in numbers))
    except ValueError:
        raise OperatorError(f"expected {_EXPECTED} with numbers, found {text!r}") from None
    except MisuseError as error:
        raise OperatorError(f"{text!r} cannot be used: {error}") from error


def _check_seconds(duration: Constant | Uniform) -> None:
    for name in duration.__struct_fields__:
        seconds = getattr(duration, name)
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            raise MisuseError(_bounds(name, seconds))


def _number(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _bounds(name: str, seconds: float) -> str:
    return f"{name}: expected {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} seconds, found {seconds:g}"
