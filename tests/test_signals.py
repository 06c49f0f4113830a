"""The signals that end a command: other commands than run; imports; within this process; what a killed run leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command import SECONDS, lom_agent, with_patch
from forked import Forked
from servers import unused_port
from started_runs import MACS, RATE, StartedRun, started_run, wait_for_file, wait_until_gone

from agent.cli.results.outcome import NOT_OVER
from agent.cli.signals import SAME_SECONDS, Stopping
from agent.load.phases.checkin import STILL_IN_SESSION

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("command", [["lab"], ["lom-device", "--seed", "signals"]], ids=["lab", "lom-device"])
@pytest.mark.parametrize("number", STATUS)
def test_signal_ends_a_listening_command_without_output(command: list[str], number: signal.Signals) -> None:
    with Forked(*command) as process:
        while b"Ctrl-C" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(number)
        _rest, errors = process.communicate()
    assert process.returncode == STATUS[number]
    assert errors == b""


@pytest.mark.parametrize("number", STATUS)
def test_signal_ends_a_waiting_lom_request(number: signal.Signals) -> None:
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


@pytest.mark.parametrize("module", ["agent.cli.commands", "agent.cli.lab.running", "agent.lab.web.server"])
def test_signal_during_import_ends_the_process_without_output(tmp_path: Path, module: str) -> None:
    done = with_patch(tmp_path, f"MODULE = {module!r}{SIGNAL_IN_AN_IMPORT}", "lab")
    assert (done.returncode, done.stdout, done.stderr) == (STATUS[signal.SIGTERM], b"", b"")


@pytest.mark.parametrize("module", ["agent.cli.run.command", "agent.load.conductor.conductor"])
def test_signal_during_import_of_run_ends_the_process_without_output(tmp_path: Path, module: str) -> None:
    done = with_patch(tmp_path, f"MODULE = {module!r}{SIGNAL_IN_AN_IMPORT}", "run", "--devices", "1")
    assert (done.returncode, done.stdout, done.stderr) == (STATUS[signal.SIGTERM], b"", b"")


KILL = "import os, signal\ndef kill(): os.kill(os.getpid(), signal.{name})\n"
AT_THE_END = {
    "before the summary": """
import agent.cli.results.outcome, agent.cli.signals
agent.cli.signals.SAME_SECONDS = 0.0
tell = agent.cli.results.outcome.RunResults.tell
def killed(*arguments): kill(), kill(), tell(*arguments)
agent.cli.results.outcome.RunResults.tell = killed
""",
    "after the command": """
import agent.cli.commands
run_command_line = agent.cli.commands.run_command_line
def killed():
    try: return run_command_line()
    finally: kill()
agent.cli.commands.run_command_line = killed
""",
    "before the interpreter's end": "import atexit\natexit.register(kill)\n",
    "at the interpreter's end": """
import sys
class Dying:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.{name}): kill(process, number)
sys.dying = Dying()  # among the last that is destroyed
""",
}


@pytest.mark.parametrize(
    ("moment", "name"), [*zip(AT_THE_END, ["SIGTERM", "SIGINT", "SIGHUP", "SIGINT"], strict=True)], ids=AT_THE_END
)
def test_a_signal_does_not_change_an_exit_status_that_is_decided(tmp_path: Path, moment: str, name: str) -> None:
    patch = (KILL + AT_THE_END[moment]).format(name=name)
    run = ("run", "--devices", "1", "--enroll", f"https://127.0.0.1:{unused_port()}/enroll", "--out", str(tmp_path))
    # The interpreter of a forked process does not come to its end.
    done = with_patch(tmp_path, patch, *run) if "interpreter" in moment else lom_agent(*run, patch=patch)
    assert (done.returncode, done.stderr) == (1, b"")
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert document["outcome"]["exit_status"] == 1
    assert document["complete"]


KILLED_LATER = """
import atexit, os, signal
import agent.cli.commands
run_command_line = agent.cli.commands.run_command_line
def killed():
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
    return run_command_line()
agent.cli.commands.run_command_line = killed
"""


def test_a_signal_does_not_change_the_exit_status_of_a_command_that_has_ended(tmp_path: Path) -> None:
    done = with_patch(tmp_path, KILLED_LATER, "fleet", "show", "--devices", "1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Serial number" in done.stdout


def test_each_signal_calls_the_next_function_and_a_duplicate_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_function_is_not_called_after_done(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    before = signal.getsignal(signal.SIGHUP)
    with Stopping() as stopping:
        stopping.call(lambda: called.append("interrupt"))
        stopping.done()
        os.kill(os.getpid(), signal.SIGHUP)
    assert called == []
    assert signal.getsignal(signal.SIGHUP) is before


# A run that writes nothing at its end: the rows of the table in docs/load.md without a summary.

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def told_by_prometheus(url: str) -> Counter[str]:
    """How many of each operation ended, as the run shows it now."""
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        text = response.read().decode()
    found: Counter[str] = Counter()
    for operation, number in re.findall(r'^lom_agent_operations_total\{operation="(\w+)".*\} (\d+)', text, re.M):
        found[operation] += int(number)
    return found


def left_without_an_end(run: StartedRun, folder: Path, reported: Counter[str]) -> None:
    """Processes, results, report, JUnit and trace of a run that was killed after it had reported these operations."""
    wait_until_gone(run.process.pid)
    document = run.results
    assert (document["complete"], document["incomplete_because"]) == (False, NOT_OVER)
    for each in document["operations"].values():
        assert each["started"] == each["count"] + each["cut_short"]
    enroll, checkin = document["phases"]
    assert enroll["planned"] == enroll["started"] == enroll["done"] == MACS
    assert checkin["started"] == checkin["done"] + checkin["cut_short"]
    assert (checkin["planned"], checkin["ended_s"]) == (600 * RATE, None)
    # A Mac whose session lasts until it is due again is dropped, which a busy machine makes happen: dropped is not 0.
    due = RATE * (document["duration_s"] - checkin["started_s"]) + 1
    assert checkin["started"] + checkin["dropped"] <= due, "what is not due yet has neither started nor been dropped"
    assert {(each["operation"], each["reason"]) for each in document["dropped"]} <= {("session", STILL_IN_SESSION)}
    assert not (folder / "report.html").exists()
    assert not (folder / "junit.xml").exists()
    assert (folder / "trace.jsonl").read_bytes() == b""
    parts = sorted(folder.glob("trace.jsonl.*"))
    assert [part.name for part in parts] == ["trace.jsonl.0", "trace.jsonl.1"]
    whole = [line for part in parts for line in part.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    traced = Counter(json.loads(line)["operation"] for line in whole)
    assert reported
    assert reported <= traced, "a reported second is in the trace"
    assert Counter({name: each["count"] for name, each in document["operations"].items()}) <= traced
    done = lom_agent("report", str(folder))
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").stat().st_size > 1000


def outputs(folder: Path) -> tuple[str, ...]:
    """The options for everything that a run can write."""
    return "--junit", str(folder / "junit.xml"), "--trace", str(folder / "trace.jsonl"), "--prometheus", "127.0.0.1:0"


def with_sessions(run: StartedRun, folder: Path) -> Counter[str]:
    """Wait until a run has reported sessions and written results with some; the reported operations."""
    run.wait_for("checkin: started")
    url = re.search(r"http://\S+", run.said)
    assert url
    wait_for_file(folder / "results.json")
    until = time.monotonic() + SECONDS
    while (reported := told_by_prometheus(url[0]))["session"] < 20 or not run.results["phases"][1]["done"]:
        assert time.monotonic() < until, reported
        time.sleep(0.1)
    return reported


@needs_proc
@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["command", "group"])
def test_a_killed_run_leaves_its_last_checkpoint_and_the_trace_to_the_last_second(
    tmp_path: Path, kill: Callable[[int, int], None]
) -> None:
    with started_run(tmp_path, 600, *outputs(tmp_path)) as run:
        reported = with_sessions(run, tmp_path)
        kill(run.process.pid, signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
        left_without_an_end(run, tmp_path, reported)


STUCK = """
import agent.load.conductor.conductor, agent.load.conductor.silence
agent.load.conductor.silence.STOP_LOOKS = 10**6
agent.load.conductor.conductor.Conductor.abandon = lambda self: self._observer.note("It is stuck")
"""


@needs_proc
def test_a_third_ctrl_c_ends_a_run_that_is_stuck_and_writes_nothing_more(tmp_path: Path) -> None:
    with started_run(tmp_path, 600, *outputs(tmp_path), patch=STUCK) as run:
        reported = with_sessions(run, tmp_path)
        os.kill(run.workers[1], signal.SIGSTOP)
        for answer in ("Ctrl-C again", "It is stuck"):
            os.killpg(run.process.pid, signal.SIGINT)
            run.wait_for(answer)
            time.sleep(2 * SAME_SECONDS)  # a person's next one: an earlier one is the same
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == STATUS[signal.SIGINT]
        assert "Written" not in run.said
        left_without_an_end(run, tmp_path, reported)
