"""The processes of one call each, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.cli.results.outputs import hold
from agent.processes import EXIT_CODE_LOOKS, FORKS, ProcessEach, exit_code_of

SECONDS = 60.0
forks = pytest.mark.skipif(not FORKS, reason="only Linux forks")
# Its first process is in a call, the second is stopped, and the third has no call.
PARENT = """
import os, signal, sys, time
from agent.processes import ProcessEach
executor = ProcessEach(3)
executor.submit(time.sleep, 600)
executor.submit(time.sleep, 600)
executor.submit(os.getpid)
processes = [process.pid for process in executor._processes]
os.kill(processes[1], signal.SIGSTOP)
print(*processes, flush=True)
sys.stdin.read()
"""


class Looked:
    """A process whose exit code another thread stores after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def exitcode(self) -> int | None:
        self.looks -= 1
        return None if self.looks >= 0 else -9


@pytest.mark.parametrize(("looks", "code"), [(0, -9), (5, -9), (10 * EXIT_CODE_LOOKS, None)])
def test_exit_code_that_another_thread_received_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, looks: int, code: int | None
) -> None:
    monkeypatch.setattr("agent.processes.sleep", lambda _seconds: None)
    process: Any = Looked(looks)
    assert exit_code_of(process) == code


def test_killed_process_fails_its_call_with_its_exit_code_and_a_second_kill_has_no_effect() -> None:
    executor = ProcessEach()
    future = executor.submit(time.sleep, 600)
    executor.kill(0)
    with pytest.raises(BrokenExecutor, match=f"ended with -{int(signal.SIGKILL)}"):
        future.result(60)
    executor.shutdown()
    executor.kill()


def test_kill_does_not_look_at_its_processes_whose_thread_waits_for_them() -> None:
    killed = []
    executor = ProcessEach()
    executor._processes.append(SimpleNamespace(kill=lambda: killed.append(1)))  # type: ignore[arg-type]
    executor.kill()
    assert killed == [1]


def test_prepared_process_is_a_child_that_has_what_this_one_had_imported() -> None:
    with ProcessEach(1) as executor:
        first, second = (executor.submit(eval, "__import__('os').getppid(), 'pytest' in __import__('sys').modules")
                         for _ in range(2))  # fmt: skip
        assert first.result(SECONDS) == (os.getpid(), FORKS)
        assert second.result(SECONDS) == (os.getpid(), False), "a new interpreter: one was prepared"


@forks
def test_prepared_processes_without_a_call_end_with_the_executor() -> None:
    executor = ProcessEach(2)
    processes = [process for _, process in executor._prepared]
    assert executor.submit(os.getpid).result(SECONDS) == processes[0].pid
    executor.shutdown()
    assert [process.exitcode for process in processes] == [0, 0]


@forks
def test_prepared_process_that_was_killed_before_its_call_fails_it() -> None:
    executor = ProcessEach(1)
    (_, process), *_ = executor._prepared
    process.kill()
    process.join()
    with pytest.raises(BrokenExecutor, match=f"ended with -{int(signal.SIGKILL)}"):
        executor.submit(time.sleep, 600).result(SECONDS)
    executor.shutdown()


@forks
def test_prepared_processes_end_with_a_killed_parent_whatever_the_others_do() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        sleeping, stopped, done = map(int, parent.stdout.readline().split())
        parent.kill()
    try:
        wait_until_ended(sleeping)
        wait_until_ended(done)
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_until_ended(stopped)


def wait_until_ended(pid: int) -> None:
    """One that has ended may remain until its new parent reaps it."""
    ends = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] != "Z":
        assert time.monotonic() < ends
        time.sleep(0.01)


@forks
def test_prepared_process_does_not_hold_the_results_of_this_one(tmp_path: Path) -> None:
    hold(str(tmp_path), "folder for the results")
    mine = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert str(tmp_path) in mine
    with ProcessEach(1) as executor:
        held = executor.submit(eval, "{__import__('os').path.realpath(f'/proc/self/fd/{each}') "
                               "for each in __import__('os').listdir('/proc/self/fd')}").result(SECONDS)  # fmt: skip
    assert str(tmp_path) not in held
