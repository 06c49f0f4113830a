"""The signals that end a command, for the commands other than run; during imports; and within this process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from command import with_patch
from forked import Forked

from agent.cli.signals import SAME_SECONDS, Stopping

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("command", [["lab"], ["lom-device", "--seed", "signals"]], ids=["lab", "lom-device"])
@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_command_that_listens_without_a_word(command: list[str], number: signal.Signals) -> None:
    with Forked(*command) as process:
        while b"Ctrl-C" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(number)
        _rest, errors = process.communicate()
    assert process.returncode == STATUS[number]
    assert errors == b""


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_request_that_waits_for_its_device(number: signal.Signals) -> None:
    import socket

    with socket.socket(socket.AF_INET6) as silent:
        silent.bind(("::1", 0))
        silent.listen()
        line = ["lom-request", "Reset", "a.test", "--seed", "s", "--timeout", "600"]
        with Forked(*line, "--to", f"[::1]:{silent.getsockname()[1]}") as process:
            peer, _ = silent.accept()
            with peer:
                assert peer.recv(1) == b"\x16"  # its hello: it waits for ours
                process.send_signal(number)
                _said, errors = process.communicate()
    assert process.returncode == STATUS[number]
    assert b"Traceback" not in errors


SIGNAL_IN_AN_IMPORT = """
import os, signal, sys

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)  # an exception of its handler is printed here, and then ignored

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == MODULE:
            Dying()

sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("module", ["agent.cli.commands", "agent.cli.lab", "agent.lab.server"])
def test_a_signal_during_an_import_ends_the_process_without_a_word(tmp_path: Path, module: str) -> None:
    done = with_patch(tmp_path, f"MODULE = {module!r}{SIGNAL_IN_AN_IMPORT}", "lab")
    assert (done.returncode, done.stdout, done.stderr) == (STATUS[signal.SIGTERM], b"", b"")


@pytest.mark.parametrize("module", ["agent.cli.run", "agent.load.conductor"])
def test_a_signal_during_an_import_of_run_ends_the_process_without_a_word(tmp_path: Path, module: str) -> None:
    done = with_patch(tmp_path, f"MODULE = {module!r}{SIGNAL_IN_AN_IMPORT}", "run", "--devices", "1")
    assert (done.returncode, done.stdout, done.stderr) == (STATUS[signal.SIGTERM], b"", b"")


def test_signals_call_one_function_after_another_and_twice_at_once_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("agent.cli.signals.time.monotonic", lambda: now[0])
    called: list[str] = []
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.number == signal.SIGTERM
        stopping.call(lambda: called.append("interrupt"), lambda: called.append("abandon"))
        assert called == ["interrupt"]
        os.kill(os.getpid(), signal.SIGINT)
        assert called == ["interrupt"]
        now[0] += SAME_SECONDS
        os.kill(os.getpid(), signal.SIGINT)
        assert called == ["interrupt", "abandon"]
        assert stopping.number == signal.SIGTERM


def test_what_was_not_stopped_is_not_stopped_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    before = signal.getsignal(signal.SIGHUP)
    with Stopping() as stopping:
        stopping.call(lambda: called.append("interrupt"))
        stopping.done()
        os.kill(os.getpid(), signal.SIGHUP)
    assert called == []
    assert signal.getsignal(signal.SIGHUP) is before
