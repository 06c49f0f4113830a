"""The operations of one process: each is started once and ended once.

An operation succeeds, fails, or is cut short: ended by this program itself. The code that starts an operation ends it;
those that are still open when the process is finished are cut short here. So the operations that were started are the
sum of those that succeeded, failed and were cut short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from msgspec import Struct
from twisted.internet.defer import CancelledError

from agent.errors import CutShort
from agent.measure.records import Exchange, Failure, Observer

RUN_ENDED = "the run ended first"

Facts = Mapping[str, str | int | float | bool]


class Seconds(Protocol):
    """A clock to read."""

    def seconds(self) -> float:
        """Now, in seconds."""


class Moment(Struct, frozen=True):
    """One moment on both clocks: ``wall`` in seconds since the epoch, ``ticks`` on the reactor's clock."""

    wall: float
    ticks: float


class Operation:
    """One operation in progress. As a context manager it ends with its block, by the exception that leaves the block.

    ``since`` is when it was due, ``facts`` what its record adds. ``key_wait`` are the seconds in which it waited for
    this machine to make an RSA key; its latency excludes them. Only the first ``end`` counts.
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
        """End it: with success, or by ``error``, which cuts it short if this program itself caused it.

        ``at`` is the time of the end on the reactor's clock; None is now.
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
        """End with the block."""
        self.end(error)


class Operations:
    """The operations of one process.

    ``observer`` is called with each that ended, ``started`` with the name of each that starts. ``reason`` is the reason
    of operations that a cancellation cuts short.
    """

    def __init__(
        self,
        clock: Seconds,
        observer: Observer,
        *,
        started: Callable[[str], object] = lambda _name: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.observer = observer
        self.reason = RUN_ENDED
        self._clock = clock
        self._started = started
        self._wall_clock = wall_clock
        self._open: set[Operation] = set()

    def __len__(self) -> int:
        """The number in progress."""
        return len(self._open)

    def now(self) -> Moment:
        """This moment."""
        return Moment(self._wall_clock(), self._clock.seconds())

    def begin(self, name: str, device: int, since: Moment | None = None, facts: Facts | None = None) -> Operation:
        """Start one of OPERATIONS of the Mac with this index. It was due at ``since``; None is now."""
        self._started(name)
        operation = Operation(self, name, device, since or self.now(), facts)
        self._open.add(operation)
        return operation

    def cut_short(self, reason: str) -> None:
        """End all operations in progress: this process is finished."""
        self.reason = reason
        for operation in list(self._open):
            operation.end(CutShort(reason))

    def ended(self, operation: Operation, error: BaseException | None, facts: Facts | None, at: float | None) -> None:
        """Make the record of an operation that ended. Only Operation calls it."""
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
        """Why ``error`` cuts an operation short; None if it fails the operation."""
        if isinstance(error, CutShort):
            return str(error)
        return self.reason if isinstance(error, CancelledError | GeneratorExit) else None
