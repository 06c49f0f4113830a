"""The processes that this program starts for its own work: how they begin, and that none outlives it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from threading import Thread
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Outcome = TypeVar("Outcome")


class ProcessEach(Executor):
    """Runs each call in a process of its own, so that one that is killed takes no other along."""

    def __init__(self) -> None:
        self._pools: list[ProcessPoolExecutor] = []
        self._calls: list[Future[object]] = []

    def submit(
        self, function: Callable[Parameters, Outcome], /, *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Future[Outcome]:
        """Start a process that calls ``function``."""
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=begin_child)
        with _interrupts_held_back():
            call = pool.submit(function, *arguments, **named)
        self._pools.append(pool)
        self._calls.append(call)  # type: ignore[arg-type]
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start none any more."""
        for pool in self._pools:
            pool.shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End this process's children where a call is not over: nobody waits for it any more."""
        if not all(call.done() for call in self._calls):
            for child in active_children():
                child.kill()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """What is started in here never hears of Ctrl-C, not even before ``begin_child`` is called."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_child() -> None:
    """For the ``initializer`` of a pool of processes.

    Ctrl-C goes to the whole process group, but the parent alone decides what it means. A parent that was killed tells
    nobody, and the pool's own queue would keep its processes for ever: they end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
