"""The signals that end a command: Ctrl-C (SIGINT), SIGTERM, and SIGHUP of a terminal that was closed.

This module imports nothing that takes time: it is there before everything else is.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_SECONDS = (
    0.5  # a signal that comes a second time within is the same one: of the group, and of whoever passed it on
)

_STANDARD_OUTPUT = 1
_OUTPUTS = (_STANDARD_OUTPUT, 2)

Handler = Callable[[int, FrameType | None], Any]


def handle(handler: Handler) -> dict[int, Any]:
    """Have the signals that end a command handled; returns who handled them before.

    SIGHUP stays ignored where it is: that is what nohup does.
    """
    before = {}
    for number in ENDING:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


def restore(before: dict[int, Any]) -> None:
    """As it was before ``handle``."""
    for number, handler in before.items():
        signal.signal(number, handler)


def end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """End this process now: while it begins, and when it is over, there is nothing to put in order."""
    os._exit(128 + number)


def end_in_order(number: int, _frame: FrameType | None) -> NoReturn:
    """End the command: what it has open is closed, what it writes is not left half-written."""
    silence_a_dead_terminal()
    raise SystemExit(128 + number)


@contextmanager
def importing() -> Iterator[None]:
    """Import a command's modules: a signal ends the process at once, for in an import it would print a traceback."""
    before = handle(end_at_once)
    try:
        yield
    finally:
        restore(before)


def silence_a_dead_terminal() -> None:
    """Let nothing fail because it cannot be printed any more, on a terminal that was closed."""
    for descriptor in _OUTPUTS:
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:
                _discard(descriptor)


@contextmanager
def printing() -> Iterator[None]:
    """Print what is printed in here, or nothing any more where nobody reads it: that must not cost the results."""
    try:
        yield
    except (OSError, SystemExit):  # rich makes a broken pipe a SystemExit
        _discard(_STANDARD_OUTPUT)


def _discard(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


class Stopping:
    """A command that puts its results in order when a signal ends it, from when it is entered until it is left.

    Each signal calls the next of the functions that ``call`` was given; one for which there is none left ends the
    process at once, after ``last``. ``number`` is that of the first signal, None where none came.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.last: Callable[[], object] = lambda: None
        self._asked: list[float] = []
        self._calls: tuple[Callable[[], object], ...] | None = None  # None: until it is known
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        self._before = handle(self._handle)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        restore(self._before)

    def call(self, *calls: Callable[[], object]) -> None:
        """What the signals call from now on, one after another; what those call that came before, at once."""
        self._calls = calls
        for call in calls[: len(self._asked)]:
            call()

    def done(self) -> None:
        """There is nothing to stop any more: the next signal has no effect."""
        self._calls = (_nothing,) * (len(self._asked) + 1)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            silence_a_dead_terminal()
        now = time.monotonic()
        if self._asked and now - self._asked[-1] < SAME_SECONDS:
            return
        self.number = self.number or number
        self._asked.append(now)
        if self._calls is None:
            return
        if len(self._asked) > len(self._calls):
            self.last()
            os._exit(128 + self.number)
        self._calls[len(self._asked) - 1]()


def _nothing() -> None:
    pass
