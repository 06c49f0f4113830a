"""``run --state`` and ``run --resume``: what is refused, what a stopped run leaves, and how its results go on."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from balance import check_sums
from command import lom_agent, lom_agent_here
from documents import good
from forked import Forked
from started_runs import MACS, RATE, SCENARIO, started_run, wait_until_gone

from agent.errors import OperatorError
from agent.faults.decisions import RuleRecord
from agent.faults.rules import Rule
from agent.load.conductor.state import RunState
from agent.load.shard.state import LOST
from agent.measure.timeline import TimeLine
from agent.scenario.reading import scenario_from
from agent.scenario.types import Scenario

SECONDS = 2
SET_UP = 'kind = "enroll"\n[[phase]]\nkind = "lom_setup"'
QUICK = 'segment_size = 2\nboot = "constant:0.05"'
WITH_LOM = f"""{SCENARIO.replace('kind = "enroll"', SET_UP).replace("segment_size = 2", QUICK)}
[[phase]]
kind = "lom"
request = "Reset"
concurrency = 2
"""

IN_CHECKIN = """
import os, signal
from agent.load.shard.shard import Shard
start = Shard._start
def starting(self, number):
    start(self, number)
    if number == {phase} and self._plan.shard == 0:
        self._reactor.callLater(0.3, os.killpg, 0, signal.{number})
Shard._start = starting
"""
FULL_DISK = """
from agent.sqlite_file import NotWritten, SQLiteFile
write, left = SQLiteFile.write, {writes}
def failing(self, *arguments, **named):
    global left
    left -= self.path.name == "{name}"
    if left < 0 and self.path.name.startswith("{name}"):
        raise NotWritten("the state cannot be written: the disk is full")
    write(self, *arguments, **named)
SQLiteFile.write = failing
"""


def scenario(**tables: object) -> Scenario:
    return scenario_from({"phase": [{"kind": "enroll"}], **tables})


def begun(path: Path, of: Scenario | None = None) -> None:
    """A state file with a run that did nothing."""
    with closing(RunState(path)) as state:
        state.begin(of or scenario(), 2, 1000.0)


def refused(path: Path, of: Scenario) -> str:
    with closing(RunState(path)) as state, pytest.raises(OperatorError) as error:
        state.begin(of, 2, 2000.0)
    return str(error.value)


# Whole runs


def test_a_run_that_was_stopped_goes_on_with_what_remains(tmp_path: Path) -> None:
    file = str(tmp_path / "run.sqlite")
    with started_run(tmp_path, SECONDS, "--state", file, patch=IN_CHECKIN.format(phase=1, number="SIGINT")) as run:
        assert run.end() == 130, run.said
        assert f"lom-agent run --resume {file}" in run.said
        wait_until_gone(run.process.pid)
        before = run.results
    check_sums(before)
    assert not before["complete"]
    files = [path for path in tmp_path.glob("run.sqlite*") if path.is_file()]
    assert {path.name for path in files} >= {"run.sqlite", "run.sqlite-w0", "run.sqlite-w1"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}

    done = lom_agent("run", "--resume", file, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "results.json").read_bytes())
    check_sums(document)
    assert document["complete"]
    assert document["started"] == before["started"]
    assert document["duration_s"] > before["duration_s"]
    [resumed] = document["resumed"]
    assert before["started"] < resumed["stopped"] <= resumed["resumed"]
    enroll, checkin = document["phases"]
    assert enroll["done"] == MACS  # before: no Mac enrolled again
    assert document["operations"]["enroll"]["count"] == MACS
    assert checkin["planned"] == RATE * SECONDS
    assert checkin["done"] + checkin["dropped"] + checkin["cut_short"] == RATE * SECONDS
    assert resumed["lost"] == sum(cut["count"] for cut in document["cut_short"] if cut["reason"] == LOST)
    seconds = [row["t"] for row in document["timeline"]]
    assert seconds == sorted(set(seconds))
    assert "resumed once in a new process" in (tmp_path / "report.html").read_text()

    again = lom_agent("run", "--resume", file)
    assert again.returncode == 2
    assert b"found one that finished at" in again.stderr


def test_a_killed_run_in_the_embedded_lab_goes_on_with_the_same_lab_and_lom_but_not_without_a_file(
    tmp_path: Path,
) -> None:
    file = str(tmp_path / "run.sqlite")
    with started_run(
        tmp_path, 1, "--state", file, scenario=WITH_LOM, patch=IN_CHECKIN.format(phase=2, number="SIGKILL")
    ) as run:
        assert run.end() == -signal.SIGKILL
        wait_until_gone(run.process.pid)
    with closing(sqlite3.connect(tmp_path / "run.sqlite.lab" / "lab.sqlite")) as lab:
        before = lab.execute("SELECT udid, fingerprint FROM macs ORDER BY udid").fetchall()
    check_missing_worker_file_is_named(tmp_path, file)
    done = lom_agent("run", "--resume", file, "--out", str(tmp_path), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    with closing(sqlite3.connect(tmp_path / "run.sqlite.lab" / "lab.sqlite")) as lab:
        assert lab.execute("SELECT udid, fingerprint FROM macs ORDER BY udid").fetchall() == before
    assert len(before) == MACS
    document = json.loads((tmp_path / "results.json").read_bytes())
    check_sums(document)
    assert document["operations"]["enroll"]["count"] + document["operations"]["enroll"]["cut_short"] == MACS
    set_up, checkin, reset = document["phases"][1:]
    assert set_up["done"] == MACS
    assert checkin["planned"] == RATE
    assert (reset["done"], document["operations"]["lom_link"]["errors"]) == (MACS, 0)  # the CAs are those of before


def check_missing_worker_file_is_named(folder: Path, file: str) -> None:
    """The run is not resumed without one of its files, and that changes nothing."""
    names = ("run.sqlite-w1", "run.sqlite-w1-wal")
    for name in names:
        (folder / name).rename(folder / f"kept {name}")
    with Forked("run", "--resume", file, mixed=True) as process:
        said, _ = process.communicate()
        assert process.wait() == 2
    assert b"Expected the state of worker 1 in " in said
    for name in names:
        (folder / f"kept {name}").rename(folder / name)


@pytest.mark.parametrize(
    ("name", "writes", "said"), [("run.sqlite-w0", 12, "worker 0: "), ("run.sqlite", 4, "the run was interrupted; ")]
)
def test_a_file_that_cannot_be_written_ends_what_writes_it_and_the_run_is_not_complete(
    tmp_path: Path, name: str, writes: int, said: str
) -> None:
    file = str(tmp_path / "run.sqlite")
    with started_run(tmp_path, 1, "--state", file, "--quiet", patch=FULL_DISK.format(name=name, writes=writes)) as run:
        assert run.end() == 1
    assert f"{said}the state cannot be written: the disk is full" in run.results["incomplete_because"]
    assert not run.results["complete"]
    check_sums(run.results)
    assert f"lom-agent run --resume {file}" in run.said


# What is refused


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    with closing(RunState(tmp_path / "run.sqlite")):
        second = lom_agent("run", "--resume", str(tmp_path / "run.sqlite"))
    assert second.returncode == 2
    assert f"found {tmp_path / 'run.sqlite'} in use".encode() in second.stderr


def test_another_scenario_is_refused_with_what_differs(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    text = refused(tmp_path / "run.sqlite", scenario(fleet={"devices": 7}, limits=["session.p99 < 1s"]))
    assert "which differs in limits, fleet.devices." in text


def test_the_same_scenario_is_refused_with_how_to_go_on(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    assert "--resume" in refused(tmp_path / "run.sqlite", scenario())


def test_a_run_that_has_finished_is_not_begun_again(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    with closing(RunState(tmp_path / "run.sqlite")) as state:
        state.finish(1001.0)
        with pytest.raises(OperatorError, match="finished at 1970-01-01T00:16:41"):
            state.resume(1002.0)
    assert "has finished" in refused(tmp_path / "run.sqlite", scenario())


def test_a_file_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with closing(RunState(tmp_path / "run.sqlite")) as state, pytest.raises(OperatorError, match="found none"):
        state.resume(1.0)


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(OperatorError, match=r"found version 99\. Use the version of lom-agent that wrote it"):
        RunState(tmp_path / "run.sqlite")


def test_a_scenario_with_a_secret_is_refused(tmp_path: Path) -> None:
    hook = {"enqueue": {"url": "https://mdm.example/q", "headers": {"Authorization": "Bearer 12345"}}}
    server = {"adapter": "webhook", "webhook": hook, "enroll": "https://mdm.example/e"}
    with closing(RunState(tmp_path / "run.sqlite")) as state, pytest.raises(OperatorError) as error:
        state.begin(scenario(server=server), 1, 1.0)
    assert "found one in server.webhook.enqueue.headers.Authorization" in str(error.value)
    assert b"12345" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    hook["enqueue"]["headers"] = {"Authorization": "Bearer {env:TOKEN}"}  # type: ignore[index]
    begun(tmp_path / "run.sqlite", scenario(server=server))


@pytest.mark.parametrize(
    ("arguments", "change", "named"),
    [
        (("--control", "127.0.0.1:0"), "", b"found --control. "),
        (("--replay", "before.json"), "", b"found --replay. "),
        ((), '[[change]]\nat = 1\nwhat = "pause"\n[[change]]\nat = 2\nwhat = "resume"\n', b"found [[change]]. "),
    ],
)
def test_a_run_that_something_changes_is_not_kept(
    tmp_path: Path, arguments: tuple[str, ...], change: str, named: bytes
) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO.format(seconds=SECONDS) + change)
    (tmp_path / "before.json").write_bytes(msgspec.json.encode(good()))
    for each in ("results.json", "report.html"):
        (tmp_path / each).write_text("of an earlier run")
    line = [each if each != "before.json" else str(tmp_path / each) for each in arguments]
    file = tmp_path / "run.sqlite"
    done = lom_agent_here("run", str(tmp_path / "scenario.toml"), "--state", str(file), "--out", str(tmp_path), *line)
    assert done.returncode == 2
    assert named in done.stderr
    assert not file.exists()
    assert not (tmp_path / "results.json").exists()  # no verdict of an earlier run is left


def test_a_run_that_has_finished_keeps_its_results(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    with closing(RunState(tmp_path / "run.sqlite")) as state:
        state.finish(1001.0)
    (tmp_path / "results.json").write_text("its results")
    done = lom_agent_here("run", "--resume", str(tmp_path / "run.sqlite"), "--out", str(tmp_path))
    assert done.returncode == 2
    assert (tmp_path / "results.json").read_text() == "its results"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--devices", "3"), b"leave out --devices"),
        (("--set", "load.rate=1", "--state", "x"), b"leave out --set, --state"),
        (("--control", "127.0.0.1:0"), b"leave out --control"),
        (("scenario.toml",), b"leave out scenario.toml"),
    ],
)
def test_resume_takes_no_scenario(tmp_path: Path, arguments: tuple[str, ...], named: bytes) -> None:
    begun(tmp_path / "run.sqlite")
    done = lom_agent_here("run", "--resume", str(tmp_path / "run.sqlite"), *arguments)
    assert done.returncode == 2
    assert named in done.stderr


# The file


def test_scenario_is_kept_with_absolute_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "run.sqlite", scenario(server={"adapter": "none", "enroll": "https://x.test/e", "ca": ["ca.pem"]}))
    with closing(RunState(tmp_path / "run.sqlite")) as state:
        assert state.scenario.server.ca == (str(tmp_path / "ca.pem"),)
        assert state.workers == 2


def test_time_line_and_phases_go_on_where_they_were(tmp_path: Path) -> None:
    begun(tmp_path / "run.sqlite")
    line = TimeLine([2])
    rule = Rule(id="outage", on="push", do="away", until=9.0)
    rules = [RuleRecord(rule=rule, passed=2.5, matches=1, hits=1, spent=0, matched={7: 1})]
    with closing(RunState(tmp_path / "run.sqlite")) as state:
        for second in range(3):
            line.add(second, {"macs": {"idle": 2}})
            state.dirty(second)
        assert state.phase_started(0, 0.0) == 0.0
        state.save(line, 1, 1005.0, 9.0, {"gateway rules": msgspec.to_builtins(rules), "apns port": 2197})
    restored = TimeLine([2])
    with closing(RunState(tmp_path / "run.sqlite")) as state:
        state.resume(2000.0)
        assert (state.elapsed, state.worked, state.number("apns port")) == (2.0, 9.0, 2197)
        assert state.gateway_rules() == rules
        assert state.phase_started(0, 2.5) == 0.0
        assert state.phase_finished(0, 2.75) == 2.75
        assert state.phase_finished(0, 3.75) == 2.75
        state.restore_timeline(restored)
        state.begun(lost=4, measured=0.5)
        state.begun(lost=5, measured=2.0)
        first, second = state.resumptions
    assert restored.rows() == line.rows()[:2]
    with pytest.raises(OperatorError):  # it is over
        restored.add(1, {})
    assert (first.at_s, first.lost, first.unmeasured_s) == (2.0, 4, 1.5)
    assert (first.stopped, first.resumed) == ("1970-01-01T00:16:45.000Z", "1970-01-01T00:33:20.000Z")
    assert (second.lost, second.unmeasured_s) == (1, 0.0)
