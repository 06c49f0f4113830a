"""What all tests share: the reactor, run for one coroutine at a time, network namespaces, Hypothesis' profiles."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from examples import USUAL_EXAMPLES
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from namespaces import HERE, THERE, Namespace, namespaces, wire
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from agent.net.timing import make_monotonic

pytest_plugins = ["pytester"]  # for the tests of our own plugin

make_monotonic(reactor)

# Under nohup, or in the background of a script, these are ignored; so would the commands that tests start do.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without compiled modules each `lom-agent` process that a test starts compiles the whole package, for half a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=USUAL_EXAMPLES
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile(
    "quick", parent=settings.get_profile("default"), max_examples=USUAL_EXAMPLES // 4
)  # of `tox -e quick`
settings.register_profile(  # of `tox -e explore`
    "explore",
    parent=settings.get_profile("default"),
    max_examples=20 * USUAL_EXAMPLES,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("ci" if os.environ.get("CI") else "default")

TESTS = Path(__file__).parent
SECONDS = 60.0  # after which a coroutine is stuck: far beyond what any test takes

SLOW_FIXTURES = {"run_in_reactor", "both_ends"}  # of tests with real sockets

RunInReactor = Callable[..., Any]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected lives to the end: the garbage collector does not look through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark what needs real sockets as slow, and run the files of whole runs first: they take longest.

    A file that is handed out last would keep one worker of pytest-xdist busy while the others have nothing left.

    Hypothesis keeps what it knows of Unicode and of the source in files. Without the lock, each worker would compute
    all of it in a new checkout, for 6 s of CPU.
    """
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.path.parent != TESTS, item.path.parent.name != "load"))
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        st.text().validate()
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _threads_of_the_reactor() -> Iterator[None]:
    """A reactor that was never stopped in good order keeps its threads, and they would keep the process."""
    yield
    if reactor.threadpool is not None:
        reactor.threadpool.stop()


@pytest.fixture
def run_in_reactor() -> Iterator[RunInReactor]:
    """Run a coroutine in Twisted's reactor to its end, and return its result.

    The test fails where an error was logged, or where the coroutine leaves a timer or a socket behind.
    """
    errors: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure") or event.get("failure")  # the reactor's own come as the second
            errors.append(failure.getTraceback() if failure is not None else str(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield _run
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not errors, "logged: " + "\n".join(errors)


@pytest.fixture(scope="module")
def both_ends() -> Iterator[tuple[Namespace, Namespace]]:
    """Two network namespaces and two wires between them: HERE to THERE, lom1 to far1."""
    with namespaces(2) as (ours, others):
        wire(ours, HERE, others, THERE)
        wire(ours, "lom1", others, "far1")
        yield ours, others


@pytest.fixture
def ours(both_ends: tuple[Namespace, Namespace]) -> Iterator[Namespace]:
    """Where the process of the tests goes, with HERE; what a test puts on it is taken off."""
    yield both_ends[0]
    both_ends[0].ip("addr", "flush", "dev", HERE)


@pytest.fixture
def others(both_ends: tuple[Namespace, Namespace]) -> Iterator[Namespace]:
    """Where a process of its own runs, with THERE; what a test puts on it is taken off."""
    yield both_ends[1]
    both_ends[1].ip("addr", "flush", "dev", THERE)


def _run(coroutine: Coroutine[Any, Any, Any], seconds: float = SECONDS) -> Any:
    ends: list[Any] = []

    def begin() -> None:
        deferred = Deferred.fromCoroutine(coroutine)
        deferred.addBoth(ends.append).addBoth(lambda _: reactor.callLater(0, reactor.crash))

    reactor.callLater(0, begin)
    stuck = reactor.callLater(seconds, reactor.crash)
    reactor.run(installSignalHandlers=False)
    if not ends:
        pytest.fail(f"the coroutine did not end within {seconds:g} s")
    stuck.cancel()
    if isinstance(ends[0], Failure):
        ends[0].raiseException()
    _fail_on_leftovers()
    return ends[0]


def _fail_on_leftovers() -> None:
    for _ in range(5):  # closed sockets and fired timers leave the reactor in its next turns
        reactor.iterate(0)
    internal = reactor._internalReaders  # the reactor's own waker
    sockets = [reader for reader in reactor.removeAll() if reader not in internal]
    timers = reactor.getDelayedCalls()
    for timer in timers:
        timer.cancel()
    assert not sockets, f"left open: {sockets}"
    assert not timers, f"left running: {[str(timer) for timer in timers]}"
