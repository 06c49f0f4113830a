"""Child processes: their start, their signals, and their end with the parent process.

Signals that end a program go to the whole process group (Ctrl-C, a closed terminal) or to the whole unit (systemd).
Only the first process handles them; its children ignore them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, ParamSpec, TypeVar

from agent.unix import resource

Parameters = ParamSpec("Parameters")
ResultT = TypeVar("ResultT")
Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]

EXIT_CODE_LOOKS = 100  # at the exit code of a process that has ended, for a second; ours
FORKS = sys.platform == "linux"  # macOS's own libraries do not work in a forked process
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class RemoteError(Exception):
    """The exception of a call in another process, as text."""


class ProcessEach(Executor):
    """Runs each call in a process of its own, so that a killed process fails only its own call.

    The first ``prepared`` calls get processes that are forked now, where the system allows it: they have the modules
    that this process has imported, and need no second for them. So this process must have one thread, and no file or
    socket that it must not share with them.
    """

    def __init__(self, prepared: int = 0) -> None:
        self._processes: list[BaseProcess] = []
        self._threads: list[Thread] = []
        self._prepared: deque[tuple[Connection, BaseProcess]] = deque()
        for _ in range(prepared if FORKS else 0):
            self._prepare()

    def _prepare(self) -> None:
        context = get_context("fork")
        ours, its = context.Pipe()
        forked = context.get_start_method() == "fork"
        inherited = [ours, *(earlier for earlier, _ in self._prepared)] if forked else []
        process = context.Process(target=_call_when_told, args=(its, inherited))
        with signals_held_back():
            process.start()
        its.close()
        self._prepared.append((ours, process))

    def submit(
        self, function: Callable[Parameters, ResultT], /, *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Future[ResultT]:
        """Have a process call ``function``. The future fails with BrokenExecutor where the process dies."""
        call = function, arguments, named
        ours, process = self._told(call) if self._prepared else _spawned(call)
        future: Future[ResultT] = Future()
        future.set_running_or_notify_cancel()
        thread = Thread(target=_await, args=(ours, process, future), daemon=True)
        thread.start()
        self._processes.append(process)
        self._threads.append(thread)
        return future

    def _told(self, call: Call) -> tuple[Connection, BaseProcess]:
        ours, process = self._prepared.popleft()
        with suppress(OSError):  # it has died: ``_await`` finds its end
            ours.send(call)
        return ours, process

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the prepared processes that have no call, and wait for the others to end. No call can be cancelled."""
        del cancel_futures
        while self._prepared:
            ours, process = self._prepared.popleft()
            ours.close()
            process.join()
        if wait:
            for thread in self._threads:
                thread.join()

    def kill(self, number: int | None = None) -> None:
        """Kill the process of one call, counted from 0 in order of their submission, or of every call."""
        for process in self._processes if number is None else self._processes[number : number + 1]:
            process.kill()  # no effect once it has ended


def _spawned(call: Call) -> tuple[Connection, BaseProcess]:
    """A new interpreter that makes a call."""
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_call, args=(its, call))
    with signals_held_back():
        resource_tracker.ensure_running()  # its start unblocks SIGINT and SIGTERM
    with signals_held_back():
        process.start()
    its.close()
    return ours, process


def _call_when_told(its: Connection, inherited: Sequence[Connection]) -> None:
    """The prepared process: closes what it has of the parent's ends, so that each end closes with the parent."""
    ignore_ending()
    for connection_of_parent in inherited:
        connection_of_parent.close()
    try:
        call = its.recv()
    except (EOFError, OSError):  # the parent needs no more processes, or is gone
        return
    _call(its, call)


def _call(its: Connection, call: Call) -> None:
    begin_child(its)
    function, arguments, named = call
    try:
        outcome = True, function(*arguments, **named)
    except Exception as error:  # noqa: BLE001 - the parent raises it as RemoteError
        outcome = False, str(error) or type(error).__name__
    its.send(outcome)


def _await(ours: Connection, process: BaseProcess, future: Future[Any]) -> None:
    """Settle a future with the outcome that its process sends, or with BrokenExecutor.

    The connection stays open until the process has ended: its end is the parent's end for it.
    """
    with ours:
        try:
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


def begin_child(*of_parent: Connection) -> None:
    """The first call in every child process; the ``initializer`` of a pool.

    It ignores the ending signals, and ends the process when the parent ends, also where the parent was killed; so does
    the end of a connection ``of_parent``. The sentinel alone does not suffice for a forked process: those that are
    forked after it have a copy of the descriptor whose closing it waits for.
    """
    ignore_ending()
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=([parent.sentinel, *of_parent],), daemon=True).start()


def ignore_ending() -> None:
    """Ignore the ending signals: the parent handles them."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end_with(ends: list[int | Connection]) -> None:
    connection.wait(ends)
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
