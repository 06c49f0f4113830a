"""Child processes: their start, their signals, and their end with the parent process.

Signals that end a program go to the whole process group (Ctrl-C, a closed terminal) or to the whole unit (systemd).
Only the first process handles them; its children ignore them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, ParamSpec, TypeVar

from agent.unix import resource

Parameters = ParamSpec("Parameters")
ResultT = TypeVar("ResultT")

EXIT_CODE_LOOKS = 100  # at the exit code of a process that has ended, for a second; ours
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class RemoteError(Exception):
    """The exception of a call in another process, as text."""


class ProcessEach(Executor):
    """Runs each call in a process of its own, so that a killed process fails only its own call."""

    def __init__(self) -> None:
        self._processes: list[SpawnProcess] = []
        self._threads: list[Thread] = []

    def submit(
        self, function: Callable[Parameters, ResultT], /, *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Future[ResultT]:
        """Start a process that calls ``function``. The future fails with BrokenExecutor where the process dies."""
        context = get_context("spawn")
        ours, its = context.Pipe(duplex=False)
        process = context.Process(target=_call, args=(its, function, arguments, named))
        with signals_held_back():
            resource_tracker.ensure_running()  # its start unblocks SIGINT and SIGTERM
        with signals_held_back():
            process.start()
        its.close()
        future: Future[ResultT] = Future()
        future.set_running_or_notify_cancel()
        thread = Thread(target=_await, args=(ours, process, future), daemon=True)
        thread.start()
        self._processes.append(process)
        self._threads.append(thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the processes to end. No call can be cancelled."""
        del cancel_futures
        if wait:
            for thread in self._threads:
                thread.join()

    def kill(self, number: int | None = None) -> None:
        """Kill the process of one call, counted from 0 in order of their submission, or of every call."""
        for process in self._processes if number is None else self._processes[number : number + 1]:
            process.kill()  # no effect once it has ended


def _call(its: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    begin_child()
    try:
        outcome = True, function(*arguments, **named)
    except Exception as error:  # noqa: BLE001 - the parent raises it as RemoteError
        outcome = False, str(error) or type(error).__name__
    its.send(outcome)


def _await(ours: Connection, process: SpawnProcess, future: Future[Any]) -> None:
    """Settle a future with the outcome that its process sends, or with BrokenExecutor."""
    try:
        with ours:
            good, outcome = ours.recv()
    except (EOFError, OSError):
        process.join()
        future.set_exception(BrokenExecutor(f"the process ended with {exit_code_of(process)}"))
        return
    process.join()
    if good:
        future.set_result(outcome)
    else:
        future.set_exception(RemoteError(outcome))


def exit_code_of(process: BaseProcess) -> int | None:
    """The exit code of a process that has ended.

    Where another thread looked at it, that thread may have received the code and not have stored it yet: until then
    ``multiprocessing`` gives None.
    """
    for _ in range(EXIT_CODE_LOOKS):
        if process.exitcode is not None:
            break
        sleep(0.01)
    return process.exitcode


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Block the ending signals: a process that is started meanwhile does not receive them before ``begin_child``."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_child() -> None:
    """The first call in every child process; the ``initializer`` of a pool.

    It ignores the ending signals, and ends the process when the parent ends, also where the parent was killed.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


_STATUS = Path("/proc/self/status")
_PEAK = b"VmHWM:"


def peak_kib(status: Path = _STATUS) -> int:
    """The peak resident memory of this process, in KiB; 0 where the system does not report it.

    On Linux ``ru_maxrss`` survives execve(2), so it includes the process from which this program was started;
    ``VmHWM`` (proc_pid_status(5)) covers this program only.
    """
    try:
        lines = status.read_bytes().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, *rest = line.split() or [b""]
        if name == _PEAK and len(rest) == 2 and rest[0].isdigit() and rest[1] == b"kB":
            return int(rest[0])
    if resource is None:
        return 0
    return resident_kib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def resident_kib(ru_maxrss: int, platform: str) -> int:
    """``ru_maxrss`` of getrusage in KiB, given ``sys.platform``.

    Source: getrusage(2): "in kilobytes" on Linux and the BSDs, "in bytes" on macOS.
    """
    return ru_maxrss // 1024 if platform == "darwin" else ru_maxrss


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of its finished children."""
    if resource is None:
        return sum(os.times()[:4])
    usages: list[Any] = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return float(sum(usage.ru_utime + usage.ru_stime for usage in usages))


def return_free_memory() -> bool:
    """Return the free pages of the C library's heap to the system; false where the library cannot.

    Source: malloc_trim(3), of glibc. jemalloc and others return memory by themselves.
    """
    import ctypes  # imported for the first call: a fast start

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return False
    return bool(trim(0))
