"""The reactor: picked here and nowhere else, run until a coroutine is done or a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from agent.net.clocks import make_monotonic

_TICK_SECONDS = 0.25


def the_reactor() -> Any:
    """Twisted's reactor for this system. Only the command line picks one."""
    from twisted.internet import reactor

    return make_monotonic(reactor)


def run_until_done(
    reactor: Any, coroutine: Coroutine[Any, Any, None], interrupt: Callable[[], object], tick: Callable[[], object]
) -> int | None:
    """Run ``coroutine`` in the reactor; the number of the signal that ended it early, if one did.

    On SIGINT or SIGTERM ``interrupt`` is called, which has to bring the coroutine to its end; from then on both are
    ignored, so that a second Ctrl-C does not cost the results. ``tick`` is called about four times a second. An error
    of the coroutine is raised here.
    """
    stopped_by: list[int] = []
    problems: list[Failure] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped_by.append(number)
        reactor.callFromThread(interrupt)

    def ended(outcome: object) -> None:
        if isinstance(outcome, Failure):
            problems.append(outcome)
        reactor.stop()

    def begin() -> None:
        LoopingCall(tick).start(_TICK_SECONDS).addErrback(problems.append)
        Deferred.fromCoroutine(coroutine).addBoth(ended)

    reactor.callWhenRunning(begin)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if stopped_by else handler)
    if problems:
        problems[0].raiseException()
    return stopped_by[0] if stopped_by else None
