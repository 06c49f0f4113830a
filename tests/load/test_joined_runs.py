"""Runs whose workers join from elsewhere: real processes, real sockets, and machines as network namespaces."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from joined_runs import ended, enrolled, listening_run, lost, worker
from machines import CONDUCTOR, machines
from started_runs import MACS

from agent.load.conductor.workers import ABORTED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

IMPATIENT = ("--set", "load.worker_timeout=10")


def test_workers_that_join_run_the_whole_scenario(tmp_path: Path) -> None:
    with listening_run(tmp_path, 2) as run:
        file = tmp_path / "join.json"
        assert file.stat().st_mode & 0o777 == 0o600
        join = json.loads(file.read_bytes())
        with worker(tmp_path) as one, worker(tmp_path, "--connect", join["address"], "--shard", "1") as two:
            run.wait_for("checkin: started")
            with worker(tmp_path) as third:
                status, said = ended(third)
                assert (status, "all 2 workers have joined" in said) == (2, True), said
            ends = [ended(one), ended(two)]
            assert run.end() == 0, run.said
        assert [status for status, _ in ends] == [0, 0], ends
        assert "Joined as worker 1 of 2, with Macs 2 to 3." in ends[1][1]
        assert not file.exists()
        assert not any(join["secret"] in text for text in (run.said, *(said for _, said in ends)))
    document = run.results
    assert document["complete"]
    assert sorted(enrolled(tmp_path)) == sorted(set(enrolled(tmp_path)))
    assert len(enrolled(tmp_path)) == MACS
    for facts in document["generator"]["workers"]:
        assert facts["clock"]["error_ms"] >= 0.0
        assert abs(facts["clock"]["ahead_ms"]) <= facts["clock"]["error_ms"] + 1.0  # it is the same clock
    assert join["secret"] not in (tmp_path / "results.json").read_text()


def test_killed_worker_is_named_with_its_macs_and_cannot_come_back(tmp_path: Path) -> None:
    with listening_run(tmp_path, 8) as run, worker(tmp_path, "--shard", "0") as one:
        with worker(tmp_path, "--shard", "1") as two:
            run.wait_for("checkin: started")
            two.kill()
            run.wait_for("worker 1 (127.0.0.1) lost its control link")
        with worker(tmp_path, "--shard", "1") as again:
            status, said = ended(again)
            assert (status, "because its Macs would enroll twice" in said) == (2, True), said
        assert ended(one)[0] == 0
        assert run.end() == 1, run.said
    document = run.results
    assert "; the results lack what its 2 Macs (2 to 3 of the fleet, " in document["incomplete_because"]
    assert (lost(document, 1)["first_mac"], lost(document, 1)["last_mac"]) == (2, 3)
    assert lost(document, 1)["measured_s"] <= lost(document, 1)["at_s"]
    assert lost(document, 1)["serials"][1] in document["incomplete_because"]
    assert "lost" not in document["generator"]["workers"][0]
    assert len(enrolled(tmp_path)) == len(set(enrolled(tmp_path)))
    assert document["phases"][1]["ended_s"] is None


def test_worker_stopped_by_its_operator_delivers_its_results_and_its_end_may_end_the_run(tmp_path: Path) -> None:
    with listening_run(tmp_path, 3600, "--on-loss", "abort") as run, worker(tmp_path) as one:
        with worker(tmp_path, "--shard", "1") as two:
            run.wait_for("checkin: started")
            two.send_signal(signal.SIGTERM)
            assert ended(two)[0] == 143
            assert run.end() == 1, run.said
        assert ended(one)[0] == 0
    document = run.results
    assert "worker 1 (127.0.0.1): the worker was stopped by SIGTERM" in document["incomplete_because"]
    assert ABORTED in document["incomplete_because"]
    assert "lost" not in document["generator"]["workers"][1]
    assert sorted(enrolled(tmp_path)) == sorted(set(enrolled(tmp_path)))
    assert len(enrolled(tmp_path)) == MACS


def test_too_few_workers_are_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    with listening_run(tmp_path, 2, "--join-timeout", "20") as run, worker(tmp_path, "--shard", "1") as one:
        assert run.end() == 2, run.said
        assert "Expected 2 workers to join within 20 s, found 1; missing: 0." in run.said
        assert not (tmp_path / "results.json").exists()
        status, said = ended(one)
        assert (status, "control link" in said or "the run ended" in said.lower()) != (2, False), said


def test_machine_without_its_cable_is_given_up_and_its_worker_ends(tmp_path: Path) -> None:
    with machines(2) as found:
        inside = {"address": CONDUCTOR, "patch": found.conductor.place.entrance}
        one, two = (machine.place.entrance for machine in found.workers)
        with (
            listening_run(tmp_path, 20, *IMPATIENT, **inside) as run,
            worker(tmp_path, "--shard", "0", patch=one) as first,
            worker(tmp_path, "--shard", "1", patch=two) as second,
        ):
            run.wait_for("checkin: started")
            found.cut(1)
            run.wait_for("worker 1 (10.77.2.2) was given up: it said nothing for 10 s (load.worker_timeout)")
            status, said = ended(second)
            assert (status, "the conductor sent nothing for 10 s" in said) == (1, True), said
            assert ended(first)[0] == 0
            assert run.end() == 1, run.said
    assert (lost(run.results, 1)["first_mac"], lost(run.results, 1)["last_mac"]) == (2, 3)
    assert run.results["complete"] is False


def test_a_stopped_run_ends_its_workers(tmp_path: Path) -> None:
    with listening_run(tmp_path, 3600, *IMPATIENT) as run, worker(tmp_path) as one, worker(tmp_path) as two:
        run.wait_for("checkin: started")
        os.kill(run.process.pid, signal.SIGKILL)
        for process in (one, two):
            status, said = ended(process)
            assert (status, "control link was lost" in said) == (1, True), said


def test_lom_crosses_the_interfaces_of_each_machine(tmp_path: Path) -> None:
    scenario = """
[fleet]
devices = 4
segment_size = 2
boot = "constant:0.1"
shutdown = "constant:0.1"
[load]
workers = 2
[lom]
network = "interface:eth0"
[[phase]]
kind = "enroll"
[[phase]]
kind = "lom_setup"
[[phase]]
kind = "lom"
request = "Reset"
rate = 10
"""
    with machines(2) as found:
        one, two = (machine.place.entrance for machine in found.workers)
        with (
            listening_run(
                tmp_path, 0, address=CONDUCTOR, patch=found.conductor.place.entrance, scenario=scenario
            ) as run,
            worker(tmp_path, patch=one) as first,
            worker(tmp_path, patch=two) as second,
        ):
            assert [ended(first)[0], ended(second)[0]] == [0, 0]
            assert run.end() == 0, run.said
    assert run.results["operations"]["lom_device"]["count"] == 4
    assert run.results["errors"] == []
