"""The reactor: installed only here, and run until a coroutine finishes or a signal ends it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from agent.cli.signals import Stopping
from agent.net.timing import make_monotonic
from agent.unix import check_unix


def the_reactor() -> Any:
    """Twisted's reactor. Only the command line installs one. Raises OperatorError on other systems than Unix."""
    check_unix()
    from twisted.internet import reactor

    return make_monotonic(reactor)


def run_until_done(
    reactor: Any,
    coroutine: Coroutine[Any, Any, None],
    interrupt: Callable[[], object],
    *,
    stopping: Stopping | None = None,
    abandon: Callable[[], object] | None = None,
) -> int | None:
    """Run ``coroutine`` in the reactor; the number of the signal that ended it early, if one did.

    The first signal calls ``interrupt``, which must bring the coroutine to its end; the second ``abandon``, if given,
    which must end it at once; another one ends this process. ``stopping`` is that of the caller, and may have received
    a signal already. An error of the coroutine is raised here.
    """
    problems: list[Failure] = []

    def ended(outcome: object) -> None:
        if isinstance(outcome, Failure):
            problems.append(outcome)
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(coroutine).addBoth(ended)

    with ExitStack() as stack:
        stopping = stopping or stack.enter_context(Stopping())
        if stopping.number is not None:
            interrupt()
        reactor.callWhenRunning(begin)
        calls = [interrupt] if abandon is None else [interrupt, abandon]
        stopping.call(*(partial(reactor.callFromThread, call) for call in calls))
        reactor.run(installSignalHandlers=False)
        stopping.done()
        number = stopping.number
    if problems:
        problems[0].raiseException()
    return number
