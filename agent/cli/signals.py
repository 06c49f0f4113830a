"""The signals that end a command: Ctrl-C (SIGINT), SIGTERM, and SIGHUP of a closed terminal.

This module imports nothing slow, because it is imported before everything else.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_SECONDS = 0.5  # a second signal within this time is a duplicate: sent to the group, and forwarded by a parent

STANDARD_OUTPUT = 1
STANDARD_ERROR = 2
_OUTPUTS = (STANDARD_OUTPUT, STANDARD_ERROR)

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


def handle(handler: Handler) -> dict[int, Any]:
    """Install a handler for the signals that end a command, and return the previous handlers.

    An ignored SIGHUP stays ignored, as under nohup.
    """
    before = {}
    for number in ENDING:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


def restore(before: dict[int, Any]) -> None:
    """Install the handlers that ``handle`` replaced."""
    for number, handler in before.items():
        signal.signal(number, handler)


def keep(status: int) -> None:
    """The exit status of this process is decided: a signal ends it with this one from now on."""
    handle(lambda _number, _frame: os._exit(status))


def ignore() -> None:
    """Ignore the signals that end a command while the interpreter shuts down, which would restore their defaults."""
    handle(signal.SIG_IGN)


def end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """End this process now: at its start there is nothing to close."""
    os._exit(128 + number)


def end_in_order(number: int, _frame: FrameType | None) -> NoReturn:
    """End the command with SystemExit, so that it closes its files."""
    silence_a_dead_terminal()
    raise SystemExit(128 + number)


@contextmanager
def importing() -> Iterator[None]:
    """Import the modules of a command: a signal ends the process at once, since an exception could be printed there.

    Garbage is not collected meanwhile: modules make little, and each collection would visit all of them, which is a
    fifth of the time of the imports. Nor are they visited later: they live as long as the process.
    """
    before = handle(end_at_once)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.freeze()
            gc.enable()
        restore(before)


def silence_a_dead_terminal() -> None:
    """Discard output to a closed terminal, so that printing does not fail."""
    for descriptor in _OUTPUTS:
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:
                _discard(descriptor)


@contextmanager
def printing(descriptor: int = STANDARD_OUTPUT) -> Iterator[None]:
    """Discard all further output there if printing fails: a closed pipe must not cost the results."""
    try:
        yield
    except (OSError, SystemExit):  # rich turns a broken pipe into a SystemExit
        _discard(descriptor)


def _discard(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


class Stopping:
    """A context in which signals stop a command step by step, so that it can write its results.

    Each signal calls the next of the functions given to ``call``. A signal after the last function calls ``last`` and
    ends the process. ``number`` is that of the first signal, or None. ``status`` is set once the exit status is decided
    and the results are written: no signal changes it then, not even after this context.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.status: int | None = None
        self.last: Callable[[], object] = lambda: None
        self._asked: list[float] = []
        self._calls: tuple[Callable[[], object], ...] | None = None  # None before ``call``
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        self._before = handle(self._handle)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.status is None:
            restore(self._before)
        else:
            keep(self.status)

    def call(self, *calls: Callable[[], object]) -> None:
        """Set the functions that signals call, in order; those of signals already received are called now."""
        self._calls = calls
        for call in calls[: len(self._asked)]:
            call()

    def done(self) -> None:
        """The command has finished: the next signal has no effect."""
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
            os._exit(128 + self.number if self.status is None else self.status)
        self._calls[len(self._asked) - 1]()


def _nothing() -> None:
    pass
