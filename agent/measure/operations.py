"""Every operation of one process: each is begun once, and ended once.

An operation succeeds, fails, or is cut short: ended by what this program itself did, so that nobody has failed. Whoever
begins one ends it; what is still open when the process has done its part is cut short here. So of every operation as
many were begun as succeeded, failed and were cut short, however it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from twisted.internet.defer import CancelledError

from agent.errors import CutShort
from agent.measure.records import Exchange, Failure, Observer

RUN_ENDED = "the run ended first"

Facts = Mapping[str, str | int | float | bool]


class Seconds(Protocol):
    """A clock that is only read."""

    def seconds(self) -> float:
        """Now, in seconds."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks: ``wall`` in seconds since the epoch, ``ticks`` on the reactor's clock."""

    wall: float
    ticks: float


class Operation:
    """One operation under way. As a context it ends with its block, by the exception that leaves it if one does.

    ``since`` is when it was due, ``facts`` what its record adds. ``key_wait`` is how many seconds it waited for this
    machine to make an RSA key, which its time leaves out. The first end counts: a later one changes nothing.
    """

    __slots__ = ("_all", "device", "facts", "key_wait", "name", "since")

    def __init__(self, operations: Operations, name: str, device: int, since: Moment, facts: Facts | None) -> None:
        self._all: Operations | None = operations
        self.name = name
        self.device = device
        self.since = since
        self.facts = facts
        self.key_wait = 0.0

    @property
    def open(self) -> bool:
        """Whether it has not ended yet."""
        return self._all is not None

    def end(self, error: BaseException | None = None, facts: Facts | None = None, *, at: float | None = None) -> None:
        """It is over: well, or by ``error``, which cuts it short where that is our own doing.

        ``at`` is when that was, in seconds on the reactor's clock; None is now.
        """
        operations, self._all = self._all, None
        if operations is not None:
            operations.ended(self, error, self.facts if facts is None else facts, at)

    def __enter__(self) -> Operation:
        """Itself."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """The block is left."""
        self.end(error)


class Operations:
    """The operations of one process.

    ``observer`` is told of each that ended, ``begun`` the name of each that begins. ``reason`` is why those are cut
    short that a cancel ends.
    """

    def __init__(
        self,
        clock: Seconds,
        observer: Observer,
        *,
        begun: Callable[[str], object] = lambda _name: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.observer = observer
        self.reason = RUN_ENDED
        self._clock = clock
        self._begun = begun
        self._wall_clock = wall_clock
        self._open: set[Operation] = set()

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._open)

    def now(self) -> Moment:
        """This moment."""
        return Moment(self._wall_clock(), self._clock.seconds())

    def begin(self, name: str, device: int, since: Moment | None = None, facts: Facts | None = None) -> Operation:
        """One of OPERATIONS begins, of the Mac with this index. It was due at ``since``; None is now."""
        self._begun(name)
        operation = Operation(self, name, device, since or self.now(), facts)
        self._open.add(operation)
        return operation

    def cut_short(self, reason: str) -> None:
        """End everything that is still under way: this process has done its part."""
        self.reason = reason
        for operation in list(self._open):
            operation.end(CutShort(reason))

    def ended(self, operation: Operation, error: BaseException | None, facts: Facts | None, at: float | None) -> None:
        """Make the record of an operation that has ended. For Operation alone."""
        self._open.discard(operation)
        failure, cut_short = None, None
        if error is not None:
            cut_short = self._ours(error)
            failure = Failure.of(error) if cut_short is None else None
        since, key_wait = operation.since, operation.key_wait
        ended = self._clock.seconds() if at is None else at
        seconds = ended - since.ticks - key_wait
        self.observer(
            Exchange(operation.name, operation.device, since.wall, seconds, failure, facts or {}, cut_short, key_wait)
        )

    def _ours(self, error: BaseException) -> str | None:
        """Why an operation is cut short by ``error``; None where it has failed."""
        if isinstance(error, CutShort):
            return str(error)
        return self.reason if isinstance(error, CancelledError | GeneratorExit) else None
