"""What is left when a run is stopped, killed, or loses a worker: the table in docs/load.md, row by row."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import time
from pathlib import Path
from threading import Timer
from xml.etree import ElementTree

import pytest
from balance import check_balance, check_sums
from command import COMMAND, SECONDS, with_patch
from started_runs import MACS, RATE, StartedRun, started_run, wait_until_gone

from agent.load.conductor.record import WORKER_LOST

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
IMPORTING = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "twisted":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""
KILLED_EARLY = """
import os
import agent.load.shard.shard
work = agent.load.shard.shard.Shard._work
def killed(self, plan):
    if plan.shard == 1:
        os.kill(os.getpid(), 9)
    return work(self, plan)
agent.load.shard.shard.Shard._work = killed
"""
BROKEN_LINK = """
import agent.load.shard.shard
tell = agent.load.shard.shard.Shard._tell_second
def tell_second(self, passed):
    tell(self, passed)
    if self._plan.shard == 1 and self._second == 2:
        {act}
agent.load.shard.shard.Shard._tell_second = tell_second
"""


def left(run: StartedRun, folder: Path) -> None:
    """Everything that a run leaves that is stopped in good order."""
    wait_until_gone(run.process.pid)
    assert not run.results["complete"]
    assert (folder / "report.html").stat().st_size > 1000
    assert ElementTree.parse(folder / "junit.xml").getroot() is not None
    for line in (folder / "trace.jsonl").read_text().splitlines():
        assert json.loads(line)["operation"]
    assert list(folder.glob("trace.jsonl.*")) == []


def outputs(folder: Path) -> tuple[str, ...]:
    return "--junit", str(folder / "junit.xml"), "--trace", str(folder / "trace.jsonl")


@pytest.mark.parametrize("number", STATUS)
def test_signal_ends_a_long_run_at_once_and_writes_everything(tmp_path: Path, number: signal.Signals) -> None:
    seconds = 21600 if number == signal.SIGTERM else 3600  # what is due for the rest of six hours is counted one by one
    with started_run(tmp_path, seconds, *outputs(tmp_path)) as run:
        run.wait_for("checkin: started")
        if number == signal.SIGTERM:
            run.process.send_signal(number)
        else:  # as a terminal does: to the whole process group
            os.killpg(run.process.pid, number)
        if number == signal.SIGINT:  # at once again: it does not cost the results
            os.killpg(run.process.pid, number)
        assert run.end() == STATUS[number], run.said
        left(run, tmp_path)
        document = run.results
        assert document["incomplete_because"] == "the run was interrupted"
        assert document["operations"]["enroll"]["count"] == MACS
        phase = document["phases"][1]
        assert phase["started"] + phase["dropped"] == phase["planned"] == RATE * seconds
        check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")
        lines = (tmp_path / "trace.jsonl").read_text().splitlines()
        times = [json.loads(line)["time"] for line in lines]
        assert times == sorted(times)
        assert len(times) >= 4 * MACS
        assert (tmp_path / "trace.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", STATUS)
def test_signal_before_the_workers_are_ready_writes_everything(tmp_path: Path, number: signal.Signals) -> None:
    with started_run(tmp_path, 600, *outputs(tmp_path)) as run:
        run.wait_for("an embedded MDM server, listens")
        os.killpg(run.process.pid, number)
        assert run.end() == STATUS[number], run.said
        left(run, tmp_path)


@pytest.mark.parametrize("number", STATUS)
def test_signal_during_import_ends_the_command(tmp_path: Path, number: signal.Signals) -> None:
    done = with_patch(tmp_path, IMPORTING.format(number=int(number)), "run", "--devices", "1")
    assert (done.returncode, done.stdout, done.stderr) == (STATUS[number], b"", b"")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["sitecustomize.py"]


def test_sighup_under_nohup_and_then_a_closed_output_pipe_keep_the_run_and_its_results(tmp_path: Path) -> None:
    nohup = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with started_run(tmp_path, 2, patch=nohup) as run:
        run.wait_for("checkin: started")
        os.killpg(run.process.pid, signal.SIGHUP)
        run.process.stdout.close()
        assert run.process.wait() == 0
    assert run.results["complete"]
    assert (tmp_path / "report.html").exists()


def test_closed_terminal_ends_the_run_and_writes_everything(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text(
        '[fleet]\ndevices = 4\n[[phase]]\nkind = "enroll"\n[[phase]]\nkind = "idle"\nseconds = 600\n'
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(COMMAND, [COMMAND, "run", str(tmp_path / "scenario.toml"), "--workers", "1", "--out", str(tmp_path)])
    seen = b""
    while b"idle" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    late = Timer(SECONDS, os.kill, (child, signal.SIGKILL))
    late.start()
    _, status = os.waitpid(child, 0)
    late.cancel()
    assert os.waitstatus_to_exitcode(status) == 129
    wait_until_gone(child)
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert document["incomplete_because"] == "the run was interrupted"
    assert (tmp_path / "report.html").exists()


def test_killed_worker_is_named_and_the_other_continues(tmp_path: Path) -> None:
    with started_run(tmp_path, 8, *outputs(tmp_path)) as run:
        run.wait_for("checkin: started")
        part = tmp_path / "trace.jsonl.1"
        until = time.monotonic() + SECONDS
        while b'"session"' not in part.read_bytes():  # some hundred bytes, far below a buffer
            assert time.monotonic() < until
            time.sleep(0.05)
        written = part.read_bytes().splitlines()
        os.kill(run.workers[1], signal.SIGKILL)
        assert run.end() == 1, run.said
        left(run, tmp_path)
        document = run.results
        assert "its process was killed, or crashed" in run.said
        assert "worker 1 died" in document["incomplete_because"]
        assert set(written[:-1]) <= set((tmp_path / "trace.jsonl").read_bytes().splitlines())
        phase = document["phases"][1]
        assert phase["ended_s"] is None  # not in every worker
        assert phase["planned"] == phase["started"] + phase["dropped"] == RATE * 8
        (lost,) = (drop for drop in document["dropped"] if drop["reason"] == WORKER_LOST)
        assert lost["operation"] == "session"
        assert 0 < lost["count"] <= phase["dropped"]
        assert phase["done"] >= RATE * 8 / 2 - (phase["dropped"] - lost["count"])  # the half of the worker that lives
        check_sums(document)


def test_stopped_worker_is_named_and_its_data_are_added_later(tmp_path: Path) -> None:
    with started_run(tmp_path, 600, "--prometheus", "127.0.0.1:0") as run:
        run.wait_for("checkin: started")
        stopped = run.workers[1]
        os.kill(stopped, signal.SIGSTOP)
        run.wait_for("worker 1 has said nothing for 5 s; the others go on")
        stamp = run.results["duration_s"] if (tmp_path / "results.json").exists() else 0.0
        until = time.monotonic() + SECONDS
        while not (tmp_path / "results.json").exists() or run.results["duration_s"] <= stamp:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert run.results["generator"]["workers"][1]["silent_s"] >= 5
        os.kill(stopped, signal.SIGCONT)
        run.wait_for("Worker 1 is back after")
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.said
        assert run.results["incomplete_because"] == "the run was interrupted"
        assert run.results["generator"]["workers"][1]["silent_s"] >= 5
        phase = run.results["phases"][1]
        assert phase["started"] + phase["dropped"] == phase["planned"]
        wait_until_gone(run.process.pid)


def test_worker_stopped_beyond_worker_timeout_is_killed(tmp_path: Path) -> None:
    with started_run(tmp_path, 3, *outputs(tmp_path), "--set", "load.worker_timeout=10") as run:
        run.wait_for("checkin: started")
        os.kill(run.workers[1], signal.SIGSTOP)
        assert run.end() == 1, run.said
        left(run, tmp_path)
        assert re.search(r"worker 1 was given up: .*load\.worker_timeout", run.results["incomplete_because"])
        check_sums(run.results)


def test_stopped_worker_does_not_delay_an_interrupt(tmp_path: Path) -> None:
    with started_run(tmp_path, 600, *outputs(tmp_path), "--set", "load.worker_timeout=3600") as run:
        run.wait_for("checkin: started")
        os.kill(run.workers[1], signal.SIGSTOP)
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.said
        left(run, tmp_path)
        because = run.results["incomplete_because"]
        assert because.startswith("the run was interrupted; worker 1 did not answer when the run was stopped; lost at ")


def test_second_ctrl_c_does_not_wait_for_workers(tmp_path: Path) -> None:
    # So that nothing else ends it:
    patch = "import agent.load.conductor.silence\nagent.load.conductor.silence.STOP_LOOKS = 10**6\n"
    with started_run(tmp_path, 600, *outputs(tmp_path), patch=patch) as run:
        run.wait_for("checkin: started")
        os.kill(run.workers[1], signal.SIGSTOP)
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait_for("Ctrl-C again")
        time.sleep(1.0)  # a person's second one: one within half a second is the same
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.said
        left(run, tmp_path)
        assert "worker 1 was not waited for" in run.results["incomplete_because"]


@pytest.mark.parametrize(
    "act", ["self._link.close()", "self._link._link._stream._socket.shutdown(2)"], ids=["unheard", "broken"]
)
def test_worker_without_control_link_is_lost(tmp_path: Path, act: str) -> None:
    with started_run(tmp_path, 6, *outputs(tmp_path), patch=BROKEN_LINK.format(act=act)) as run:
        assert run.end() == 1, run.said
        left(run, tmp_path)
        assert re.search(r"worker 1.* control link", run.results["incomplete_because"])
        assert run.results["phases"][1]["ended_s"] is None


def test_worker_killed_before_it_is_ready_means_that_the_run_did_not_start(tmp_path: Path) -> None:
    with started_run(tmp_path, 6, *outputs(tmp_path), patch=KILLED_EARLY) as run:
        assert run.end() == 2, run.said
        assert re.search(r"worker 1\b.*(killed|died|crashed)", run.said)
        wait_until_gone(run.process.pid)
        assert not (tmp_path / "results.json").exists()
        assert not (tmp_path / "junit.xml").exists()
