"""The processes of one call each, and how they end."""

from __future__ import annotations

import signal
import time
from concurrent.futures import BrokenExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from agent.processes import EXIT_CODE_LOOKS, ProcessEach, exit_code_of


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
