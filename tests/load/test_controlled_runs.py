"""``lom-agent run --control``: a run in processes of its own, controlled over HTTP as a script or a person does."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from command import lom_agent_here
from forked import SECONDS
from started_runs import StartedRun, started_run, wait_for_file, wait_until_gone

from agent.client import NotFound, RequestRefused, Run
from agent.load.conductor.facts import INTERRUPTED
from agent.load.conductor.record import WORKER_LOST
from agent.service.run_types import RunState

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

LONG = 600.0  # seconds of a phase that the test ends
RATE = 10
OPEN = f'arrivals = "constant"\nrate = {RATE}'
CLOSED = "concurrency = 2"
RAMP = f'arrivals = "ramp"\nrate = {RATE}\nto_rate = {2 * RATE}'
UNREADY = """
import os, time
import agent.load.shard.shard
ahead = agent.load.shard.shard.keys_made_ahead
async def keys_made_ahead(*arguments):
    await ahead(*arguments)
    while not os.path.exists({path!r}):
        time.sleep(0.05)
agent.load.shard.shard.keys_made_ahead = keys_made_ahead
"""

STALL = """
import time
from agent.load.shard.shard import Shard

start = Shard._start

def stalled(self, number):
    start(self, number)
    if number == 1 and self._plan.shard == 1:
        self._reactor.callLater(0.2, stand_still)

def stand_still():
    time.sleep(3)
    print("goes on", flush=True)

Shard._start = stalled
"""
WATCHED = """
from agent.measure.metrics import Metrics
for name in ("pause", "resume"):
    def told(self, name=name, act=getattr(Metrics, name)):
        print("metrics", name, flush=True)
        act(self)
    setattr(Metrics, name, told)
"""


def scenario(how: str) -> str:
    return f"""
name = "steered"
[fleet]
devices = 4
segment_size = 2
[load]
workers = 2
tail = 2
[[phase]]
kind = "enroll"
concurrency = 4
[[phase]]
name = "look"
kind = "checkin"
by = "self"
{how}
duration = {{seconds}}
"""


@contextmanager
def controlled(
    folder: Path, seconds: float, how: str = OPEN, *arguments: str, patch: str = ""
) -> Iterator[tuple[StartedRun, Run]]:
    """A run, and its client. Its second phase, ``look``, takes ``seconds``."""
    folder.mkdir(exist_ok=True)
    ready = folder / "ready.json"
    options = ("--control", "127.0.0.1:0", "--ready-file", str(ready), *arguments)
    with started_run(folder, seconds, *options, scenario=scenario(how), patch=patch) as run:
        wait_for_file(ready)
        assert ready.stat().st_mode & 0o77 == 0
        with Run.of(ready) as client:
            yield run, client


def until(client: Run, wanted: Callable[[RunState], bool]) -> RunState:
    """Ask for the state until it is as wanted."""
    end = time.monotonic() + SECONDS
    while not wanted(state := client.state):
        assert time.monotonic() < end, state
        time.sleep(0.05)
    return state


def looking(state: RunState) -> bool:
    return state.phases[1].state == "running" and state.phases[1].started > 0


def looked(run: StartedRun) -> Any:
    """The phase ``look`` of the results, in which every operation is accounted for."""
    phase = run.results["phases"][1]
    assert phase["planned"] == phase["started"] + phase["dropped"]
    assert phase["started"] == phase["done"] + phase["cut_short"]
    return phase


def made(run: StartedRun) -> list[tuple[Any, ...]]:
    """The changes, each with the time that a replay repeats."""
    changes = run.results["changes"]
    return sorted(
        (each["what"], each.get("phase"), each.get("phase_s", each["at_s"]), each.get("rate"), each.get("factor"))
        for each in changes
    )


def refused(ask: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(RequestRefused) as error:
        ask()
    return error.value.problem.status, error.value.problem.detail


# So that a closed loop does not start as many operations as this machine can.
SLOW = ("--rule", 'on = "session", do = "delay", seconds = 0.1')


@pytest.mark.parametrize("how", [OPEN, CLOSED, RAMP], ids=["open", "closed", "ramp"])
def test_a_pause_over_the_end_of_a_phase_moves_its_end(tmp_path: Path, how: str) -> None:
    seconds = 2.0
    with controlled(tmp_path, seconds, how, *(SLOW if how == CLOSED else ()), patch=WATCHED) as (run, client):
        until(client, lambda state: state.phases[1].state == "running")
        paused = client.pause()
        assert paused.paused
        began = paused.changes[0].at_s
        later = until(client, lambda state: state.elapsed_s > began + seconds + 1.0)
        assert (later.paused, later.phases[1].state) == (True, "running")
        assert not client.resume().paused
        assert run.end() in (0, 1)  # an overloaded machine may be late, and no limit says what that means
        assert not (tmp_path / "ready.json").exists()
    assert [run.said.count(f"metrics {what}") for what in ("pause", "resume")] == [2, 2]  # in each worker
    phase = looked(run)
    assert run.results["complete"]
    assert phase["paused_s"] > seconds + 1.0
    assert phase["ended_s"] - phase["started_s"] - phase["paused_s"] > seconds - 0.1
    if how == OPEN:
        assert phase["planned"] == RATE * seconds
    if how == RAMP:
        assert abs(phase["planned"] - 1.5 * RATE * seconds) <= 1
    spans = [each for worker in run.results["generator"]["workers"] for each in worker["phases"]]
    assert {each["phase"] for each in spans if each.get("paused_s")} == {"look"}
    rows = run.results["timeline"]
    assert any(row.get("paused_s") == 1.0 for row in rows)
    assert {name for row in rows for name in row.get("rates", ())} == ({"look"} if how == OPEN else set())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was asked for what it refuses, before its workers were ready and after, and stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    go_on = folder / "go on"
    with controlled(folder, LONG, patch=UNREADY.format(path=str(go_on))) as (run, client):
        assert not client.state.began
        for ask in (client.pause, client.resume, lambda: client.set_rate("look", 5)):
            status, detail = refused(ask)
            assert (status, "workers" in detail) == (409, True)
        go_on.touch()
        until(client, looking)
        assert refused(client.resume)[0] == 409
        client.pause()
        status, detail = refused(client.pause)
        assert (status, "Resume it first" in detail) == (409, True)
        client.resume()
        with pytest.raises(NotFound, match="one of enroll, look"):
            client.set_rate("watch", 5)
        assert refused(lambda: client.set_rate("enroll", 5)) == (400, refused(lambda: client.set_rate("enroll", 6))[1])
        assert refused(lambda: client.set_rate("look"))[0] == 400
        assert refused(lambda: client.set_rate("look", 5, factor=2))[0] == 400
        ready = json.loads((folder / "ready.json").read_text())
        url, headers = ready["control"], {"Authorization": f"Bearer {ready['token']}"}
        for rate in ("0", "-1", "NaN", "1e400", '"5"', "null"):
            body = f'{{"phase": "look", "rate": {rate}}}'
            answer = httpx.post(f"{url}/v1/run/rate", content=body, headers=headers, trust_env=False)
            assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), rate
        assert httpx.post(f"{url}/v1/run/pause", trust_env=False).status_code == 401
        assert client.set_rate("look", 20).phases[1].rate == 20
        client.pause()
        text = httpx.get(f"{url}/metrics", headers=headers, trust_env=False).text
        assert "lom_agent_run_paused 1.0" in text
        assert 'lom_agent_phase_target_rate{phase="look"} 20.0' in text
        client.stop()
        assert run.end() == 1
    return folder


def test_what_contradicts_the_run_or_comes_before_its_workers_are_ready_is_refused(stopped: Path) -> None:
    results = json.loads((stopped / "results.json").read_bytes())
    assert [each["what"] for each in results["changes"]] == ["pause", "resume", "rate", "pause"]
    assert results["incomplete_because"] == INTERRUPTED


def test_an_interruption_while_paused_drops_the_rest_and_every_report_tells_the_pause(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    with controlled(tmp_path, LONG, OPEN, "--junit", str(junit)) as (run, client):
        until(client, looking)
        client.pause()
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
        wait_until_gone(run.process.pid)
    results = run.results
    phase = looked(run)
    assert (phase["planned"], phase["ended_s"]) == (RATE * LONG, None)
    dropped = {each["reason"]: each["count"] for each in results["dropped"]}
    assert sum(dropped.values()) == phase["dropped"]
    assert dropped[INTERRUPTED] > phase["planned"] / 2
    told = results["changed"]
    assert told.startswith("The running scenario was changed through the control API: paused for ")
    assert "in 1 pause (look for " in told
    assert told in " ".join(run.said.split())
    assert told in (tmp_path / "report.html").read_text()
    [value] = [each.get("value") for each in ElementTree.parse(junit).iter("property") if each.get("name") == "changes"]
    assert value == told


def test_a_worker_that_is_lost_while_paused_is_accounted_for(tmp_path: Path) -> None:
    with controlled(tmp_path, 4.0) as (run, client):
        until(client, looking)
        client.pause()
        os.kill(run.workers[-1], signal.SIGKILL)
        run.wait_for("its process was killed")
        client.resume()
        assert run.end() == 1
    phase = looked(run)
    assert phase["planned"] == RATE * 4
    dropped = {each["reason"]: each["count"] for each in run.results["dropped"]}
    assert sum(dropped.values()) == phase["dropped"]
    assert dropped[WORKER_LOST] > 0
    assert [each["what"] for each in run.results["changes"]] == ["pause", "resume"]


def test_a_run_whose_workers_are_all_lost_ends_although_it_is_paused(tmp_path: Path) -> None:
    with controlled(tmp_path, 4.0) as (run, client):
        until(client, looking)
        client.pause()
        for worker in run.workers:
            os.kill(worker, signal.SIGKILL)
        assert run.end() == 1
    assert looked(run)["dropped"] > 0
    assert [each["what"] for each in run.results["changes"]] == ["pause"]


def test_an_overload_that_a_pause_ends_is_reported(tmp_path: Path) -> None:
    with controlled(tmp_path, 4.0, patch=STALL) as (run, client):
        until(client, looking)
        client.pause()  # while the event loop of one worker stands still
        run.wait_for("goes on")
        client.resume()
        assert run.end() in (0, 1)
    overloaded = {(each["phase"], each["worker"], each["kind"]) for each in run.results["generator"]["overloaded"]}
    assert ("look", 1, "process") in overloaded
    assert looked(run)["paused_s"] > 0


def test_a_recorded_run_is_replayed_with_the_same_changes_at_the_same_times(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with controlled(first, 5.0) as (run, client):
        until(client, looking)
        client.set_rate("look", 25)
        client.pause()
        client.set_rate("look", factor=1.5)
        client.resume()
        assert run.end() in (0, 1)
    assert run.results["complete"]
    second.mkdir()
    with started_run(second, 5.0, "--replay", str(first), scenario=scenario(OPEN)) as again:
        assert again.end() in (0, 1)
    assert made(run) == made(again)
    assert len(made(run)) == 4
    assert {each["by"] for each in again.results["changes"]} == {"scenario"}
    assert looked(run)["planned"] == looked(again)["planned"]
    assert looked(run)["planned"] > 2 * RATE * 5 / 2


def test_a_replay_is_refused_where_the_scenario_cannot_have_the_changes(tmp_path: Path, stopped: Path) -> None:
    text = scenario(OPEN).format(seconds=5)
    (tmp_path / "same.toml").write_text(text)
    (tmp_path / "other.toml").write_text(text.replace('"look"', '"watch"'))
    recorded = (stopped / "results.json").read_text()
    (tmp_path / "results.json").write_text(recorded)
    zero = [each | {"rate": 0} for each in json.loads(recorded)["changes"] if each["what"] == "rate"]
    (tmp_path / "zero.json").write_text(json.dumps(json.loads(recorded) | {"changes": zero}))
    for name, results, why in (
        ("same", "results", "has no end"),
        ("other", "results", 'found "look"'),
        ("same", "zero", ">= 1e-06"),
    ):
        done = lom_agent_here("run", str(tmp_path / f"{name}.toml"), "--replay", str(tmp_path / f"{results}.json"))
        assert done.returncode == 2
        assert why in " ".join(done.stderr.decode().split())


@pytest.mark.parametrize("option", ["--token-file", "--ready-file"])
def test_the_files_of_the_control_api_go_with_it(tmp_path: Path, option: str) -> None:
    done = lom_agent_here("run", option, str(tmp_path / "file"))
    assert (done.returncode, f"{option} goes with --control" in done.stderr.decode()) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_quiet_run_prints_no_address_so_that_its_control_api_needs_a_file() -> None:
    done = lom_agent_here("run", "--control", "127.0.0.1:0", "--quiet")
    assert done.returncode == 2
    assert "--control with --quiet needs --ready-file" in " ".join(done.stderr.decode().split())
