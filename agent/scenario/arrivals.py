"""The schedule of a phase: from a shape of arrivals and a number of targets to due times and targets. No I/O, no clock.

An open model: an operation starts when it is due, never in response to an answer. The schedule is derived from the
seed, the name of the phase and the shape alone. Each shard takes the arrivals of its own targets (``of_targets``) from
the same schedule, so the load does not depend on the number of shards.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain, count, cycle, repeat, takewhile
from operator import gt, truediv
from random import Random
from typing import NamedTuple

import msgspec

from agent.errors import MisuseError
from agent.fleet.derivation import Derivation
from agent.scenario.tempo import Tempo


class Arrival(NamedTuple):
    """``due`` is in seconds from the start of the phase; ``target`` is an index into the targets of the phase."""

    due: float
    target: int


class AtOnce(msgspec.Struct, frozen=True):
    """All arrivals are due at the start."""

    def dues(self, _random: Random) -> Iterator[float]:
        """The due times, ascending, infinite."""
        return repeat(0.0)

    def before(self, seconds: float) -> float:
        """The number of arrivals due before ``seconds``."""
        return math.inf if seconds > 0 else 0.0

    def due(self, _number: int) -> float:
        """The due time of arrival ``number``, counted from 0."""
        return 0.0


class Constant(msgspec.Struct, frozen=True):
    """One arrival every ``1 / rate`` seconds, the first at the start. Raises MisuseError unless ``rate`` is above 0."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def dues(self, _random: Random) -> Iterator[float]:
        """The due times, ascending, infinite."""
        return map(truediv, count(), repeat(self.rate))

    def before(self, seconds: float) -> float:
        """The number of arrivals due before ``seconds``."""
        return _whole(self.rate * seconds)

    def due(self, number: int) -> float:
        """The due time of arrival ``number``, counted from 0."""
        return number / self.rate


class Poisson(msgspec.Struct, frozen=True):
    """Independent arrivals, ``rate`` per second on average. Raises MisuseError unless ``rate`` is above 0."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def dues(self, random: Random) -> Iterator[float]:
        """The due times, ascending, infinite."""
        rate, log, chance = self.rate, math.log, random.random  # from 0 up to but not including 1
        return accumulate(-log(1.0 - chance()) / rate for _ in repeat(None))

    def before(self, seconds: float) -> float:
        """The average number of arrivals due before ``seconds``."""
        return _whole(self.rate * seconds)

    def due(self, number: int) -> float:
        """The average due time of arrival ``number``, counted from 0."""
        return (number + 1) / self.rate


class _Piece(NamedTuple):
    """An interval in which the rate changes linearly from ``first`` to ``last``; the last interval is infinite."""

    began: float
    done: float  # arrivals due before the interval
    first: float
    last: float
    seconds: float

    @property
    def total(self) -> float:
        return self.first * self.seconds if self.first == self.last else (self.first + self.last) / 2 * self.seconds

    def due(self, number: int) -> float:
        """The time when the integral of the rate reaches ``number``: the root of a parabola, in its stable form."""
        left = max(0.0, number - self.done)
        if not left:
            return self.began
        slope = (self.last - self.first) / self.seconds
        root = math.sqrt(max(0.0, self.first * self.first + 2.0 * slope * left))
        both = self.first + root
        return self.began + (min(self.seconds, 2.0 * left / both) if both else self.seconds)

    def before(self, seconds: float) -> float:
        """The integral of the rate up to ``seconds``."""
        passed = min(seconds - self.began, self.seconds)
        slope = (self.last - self.first) / self.seconds
        mean = self.first + slope * passed / 2.0 if slope else self.first
        return self.done + mean * passed


class _Pieces(ABC):
    """Arrivals by a rate that changes: one each time the integral of the rate reaches a whole number."""

    __slots__ = ()

    def _pieces(self) -> Iterator[_Piece]:
        began = done = last = 0.0
        for first, last, seconds in self.stretches():
            piece = _Piece(began, done, first, last, seconds)
            yield piece
            began += seconds
            done += piece.total
        if last:
            yield _Piece(began, done, last, last, math.inf)

    @abstractmethod
    def stretches(self) -> Iterable[tuple[float, float, float]]:
        """Of each interval the rate at its start, the rate at its end and its seconds; the last rate continues."""

    def dues(self, _random: Random) -> Iterator[float]:
        """The due times, ascending; infinite unless the last rate is 0."""
        number = 0
        for piece in self._pieces():
            until = piece.done + piece.total
            due = piece.due
            while number < until:
                yield due(number)
                number += 1

    def before(self, seconds: float) -> float:
        """The number of arrivals due before ``seconds``."""
        reached = 0.0
        for piece in self._pieces():
            if piece.began < seconds:
                reached = piece.before(seconds)
        return _whole(reached)

    def due(self, number: int) -> float:
        """The due time of arrival ``number``, counted from 0; infinity for never."""
        for piece in self._pieces():
            if number < piece.done + piece.total:
                return piece.due(number)
        return math.inf


@dataclass(frozen=True, slots=True)
class Ramp(_Pieces):
    """The rate changes linearly from ``rate`` to ``to_rate`` in ``seconds``, and stays there.

    Raises MisuseError for a rate below 0, for two rates that are 0, and unless ``seconds`` is above 0.
    """

    rate: float
    to_rate: float
    seconds: float

    def __post_init__(self) -> None:
        if min(self.rate, self.to_rate) < 0 or not self.rate + self.to_rate > 0 or not self.seconds > 0:
            raise MisuseError(f"a ramp goes from a rate to another one in some time, not as {self}")

    def stretches(self) -> Iterable[tuple[float, float, float]]:
        """The ramp."""
        return ((self.rate, self.to_rate, self.seconds),)


@dataclass(frozen=True, slots=True)
class Steps(_Pieces):
    """One rate after another, each for its seconds; the last one continues. ``steps`` are (rate, seconds).

    Raises MisuseError for no step, a rate below 0, only rates of 0, and a step without seconds.
    """

    steps: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        rates = [rate for rate, _ in self.steps]
        if not rates or min(rates) < 0 or not max(rates) > 0 or not all(seconds > 0 for _, seconds in self.steps):
            raise MisuseError(f"steps are rates with some seconds each, not {self.steps}")

    def stretches(self) -> Iterable[tuple[float, float, float]]:
        """The steps."""
        return ((rate, rate, seconds) for rate, seconds in self.steps)


class Burst(msgspec.Struct, frozen=True):
    """``size`` arrivals at once, every ``every`` seconds, from the start. Raises MisuseError unless positive."""

    size: int
    every: float

    def __post_init__(self) -> None:
        if self.size < 1 or not self.every > 0:
            raise MisuseError(f"bursts are of one at least, some seconds apart, not {self}")

    def dues(self, _random: Random) -> Iterator[float]:
        """The due times, ascending, infinite."""
        size, every = self.size, self.every
        return chain.from_iterable(repeat(number * every, size) for number in count())

    def before(self, seconds: float) -> float:
        """The number of arrivals due before ``seconds``."""
        return _whole(seconds / self.every) * self.size

    def due(self, number: int) -> float:
        """The due time of arrival ``number``, counted from 0."""
        return number // self.size * self.every


class Replay(msgspec.Struct, frozen=True):
    """Arrivals at ``offsets``, in ascending seconds. Raises MisuseError for another order."""

    offsets: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(map(gt, (0.0, *self.offsets), self.offsets)):
            raise MisuseError("the offsets of a replay are seconds in ascending order")

    def dues(self, _random: Random) -> Iterator[float]:
        """The due times, ascending."""
        return iter(self.offsets)

    def before(self, seconds: float) -> float:
        """The number of arrivals due before ``seconds``."""
        return float(bisect_left(self.offsets, seconds))

    def due(self, number: int) -> float:
        """The due time of arrival ``number``, counted from 0; infinity for never."""
        return self.offsets[number] if number < len(self.offsets) else math.inf


Shape = AtOnce | Constant | Poisson | Ramp | Steps | Burst | Replay


class ArrivalPlan(msgspec.Struct, frozen=True):
    """A shape of arrivals and its end. Raises MisuseError for arrivals without end.

    Only arrivals due before ``duration`` count (seconds; None: all). ``again``: after the last target the first one
    is repeated; otherwise each target has at most one arrival.
    """

    shape: Shape
    duration: float | None = None
    again: bool = False

    def __post_init__(self) -> None:
        endless = self.duration is None and not isinstance(self.shape, Replay)
        if self.again and (endless or isinstance(self.shape, AtOnce)):
            raise MisuseError(f"arrivals would have no end: {self}")


def schedule(plan: ArrivalPlan, targets: int, source: Derivation, name: str) -> Iterator[Arrival]:
    """The arrivals of a phase for ``targets`` targets, ordered by ``due``, as a lazy iterator.

    ``source`` is the seed, ``name`` that of the phase: together they determine the schedule. The targets are in the
    order of ``order``. Without ``again`` and ``duration`` each has exactly one arrival, unless the shape ends before.
    """
    arrivals = without_end(plan, targets, source, name)
    if plan.duration is None:
        return arrivals
    until = plan.duration
    return takewhile(lambda arrival: arrival.due < until, arrivals)


def without_end(plan: ArrivalPlan, targets: int, source: Derivation, name: str) -> Iterator[Arrival]:
    """The arrivals of ``schedule``, and those after the end of the phase: a changed rate moves them before it."""
    if targets < 1:
        return iter(())
    dues = plan.shape.dues(_random(source, b"arrivals due", name))
    turns = order(targets, source, name)
    return map(Arrival, dues, cycle(turns) if plan.again else turns)


def order(targets: int, source: Derivation, name: str) -> Iterator[int]:
    """A lazy seeded shuffle of ``range(targets)`` for this phase."""
    chance = _random(source, b"arrivals order", name).random
    places = list(range(targets))
    for place in range(targets):
        other = place + int(chance() * (targets - place))
        turn = places[other]
        places[other] = places[place]
        yield turn


def of_targets(arrivals: Iterable[Arrival], own: Callable[[int], bool]) -> Iterator[Arrival]:
    """The arrivals at the targets of one shard, in their order."""
    return (arrival for arrival in arrivals if own(arrival.target))


def expected(plan: ArrivalPlan, targets: int, tempo: Tempo | None = None) -> tuple[int, float]:
    """The number of arrivals and the due time of the last one in seconds; for Poisson, the averages.

    Computed, not counted, so that a day at a thousand per second costs nothing. ``tempo`` has the changes of the rate.
    """
    tempo = tempo or Tempo()
    shape = plan.shape
    due = shape.before(math.inf if plan.duration is None else tempo.place(plan.duration))
    if not plan.again:
        due = min(due, targets)
    number = int(due) if targets > 0 else 0
    last = tempo.moment(shape.due(number - 1)) if number else 0.0
    return number, last if plan.duration is None else min(last, plan.duration)


def _random(source: Derivation, purpose: bytes, name: str) -> Random:
    """A separate generator per phase and purpose. Only ``Random.random()`` is the same in every Python version."""
    number = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return Random(int.from_bytes(source.digest(purpose, number), "big"))


def _whole(number: float) -> float:
    """The number of whole numbers from 0 on that are below ``number``."""
    return float(math.ceil(number)) if 0.0 < number < math.inf else max(0.0, number)


def _check_rate(rate: float) -> None:
    if not 0 < rate < math.inf:
        raise MisuseError(f"a rate is a number above 0, not {rate}")
