"""How long something takes that takes a Mac some time: a distribution of seconds, and its text form.

Drawing is pure: the number that it takes comes from ``Chance``, so that a duration follows from the seed, the Mac's
index, the purpose and how many were drawn before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from statistics import NormalDist

from agent.errors import MisuseError, OperatorError

SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 3600.0  # of any draw: a Mac that takes longer to boot is broken
MOST_SIGMA = 2.0
_MOST_DEVIATIONS = 4.0  # standard deviations that a lognormal draw is away from its median; one in 16,000 is beyond
_LEAST_CHANCE = 2.0**-53  # so that neither end of the normal distribution, which is infinite, is ever asked for
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Constant:
    """Always ``seconds``. Raises MisuseError where that is not from SHORTEST_SECONDS to LONGEST_SECONDS."""

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds(self)

    def __str__(self) -> str:
        return f"constant:{_number(self.seconds)}"

    def draw(self, _chance: Callable[[], float]) -> float:
        """The next duration, in seconds."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything from ``shortest`` to ``longest`` seconds. Raises MisuseError for what is no such range."""

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


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half of the draws are below ``median`` seconds, and a few are far beyond.

    ``sigma`` is the standard deviation of the logarithm, from 0 to MOST_SIGMA. A draw is at most four of them away
    from the median, and from SHORTEST_SECONDS to LONGEST_SECONDS. Raises MisuseError for what is out of bounds.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        if not SHORTEST_SECONDS <= self.median <= LONGEST_SECONDS:
            raise MisuseError(_bounds("median", self.median))
        if not 0.0 <= self.sigma <= MOST_SIGMA:
            raise MisuseError(f"sigma should be from 0 to {MOST_SIGMA:g}, but is {self.sigma:g}")

    def __str__(self) -> str:
        return f"lognormal:{_number(self.median)},{_number(self.sigma)}"

    def draw(self, chance: Callable[[], float]) -> float:
        """The next duration, in seconds."""
        probability = min(max(chance(), _LEAST_CHANCE), 1.0 - _LEAST_CHANCE)
        deviations = min(max(_NORMAL.inv_cdf(probability), -_MOST_DEVIATIONS), _MOST_DEVIATIONS)
        seconds = self.median * math.exp(self.sigma * deviations)
        return min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)


Duration = Constant | Uniform | LogNormal


@dataclass(frozen=True, slots=True)
class Durations:
    """The durations of one Mac, one after another: call it for the next, in seconds."""

    distribution: Duration
    chance: Callable[[], float]

    def __call__(self) -> float:
        """The next one."""
        return self.distribution.draw(self.chance)


_FORMS: dict[str, tuple[type[Duration], int]] = {
    "constant": (Constant, 1),
    "uniform": (Uniform, 2),
    "lognormal": (LogNormal, 2),
}
_EXPECTED = "constant:SECONDS, uniform:SHORTEST,LONGEST or lognormal:MEDIAN,SIGMA"


def parse_duration(text: str) -> Duration:
    """The distribution that ``text`` names: ``constant:3``, ``uniform:1,3``, ``lognormal:30,0.3``.

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
    for each in fields(duration):
        seconds = getattr(duration, each.name)
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            raise MisuseError(_bounds(each.name, seconds))


def _number(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _bounds(name: str, seconds: float) -> str:
    return f"{name} should be from {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} seconds, but is {seconds:g}"
