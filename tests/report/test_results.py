"""What a program that reads results.json can rely on."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from agent.errors import MisuseError, OperatorError
from agent.load.metrics import Metrics
from agent.net.records import Exchange, Failure
from agent.report.results import ResourceMeter, Resources, RunInfo, resident_kib, results, write_results

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUN = RunInfo(version="1.2.3", seed="orchard", devices=50, started=START, duration_s=12.34567)
TOOK = Resources(cpu_s=1.23456, max_rss_kib=2048)


def test_the_document_has_exactly_the_promised_shape():
    metrics = Metrics()
    for second in range(4):
        metrics(Exchange("command", 1, START.timestamp() + second, 0.5))
    metrics(Exchange("push", 1, START.timestamp(), 0.5, Failure("peer", "410 Unregistered")))

    assert results(metrics, RUN, TOOK) == {
        "schema": "lom-agent.results/1",
        "version": "1.2.3",
        "seed": "orchard",
        "devices": 50,
        "started": "2026-01-31T12:00:00.000Z",
        "duration_s": 12.346,
        "operations": {
            "command": {
                "count": 4,
                "errors": 0,
                "rate_per_s": 1.143,
                "latency_ms": {
                    "p50": 500.0,
                    "p90": 500.0,
                    "p99": 500.0,
                    "p99_9": 500.0,
                    "max": 500.0,
                    "mean": 500.0,
                },
            },
            "push": {
                "count": 1,
                "errors": 1,
                "rate_per_s": 0.0,
                "latency_ms": dict.fromkeys(("p50", "p90", "p99", "p99_9", "max", "mean")),
            },
        },
        "errors": [{"operation": "push", "kind": "peer", "count": 1, "example": "410 Unregistered"}],
        "resources": {"cpu_s": 1.235, "max_rss_kib": 2048},
    }


def test_a_run_without_exchanges_is_a_document_too():
    document = results(Metrics(), RUN, TOOK)
    assert (document["operations"], document["errors"]) == ({}, [])


def test_a_start_without_a_time_zone_is_misuse():
    with pytest.raises(MisuseError, match="time zone"):
        RunInfo("1", 1, 1, datetime(2026, 1, 31), 1.0)


def test_resources_are_those_of_a_running_program():
    meter = ResourceMeter()
    assert sum(number * number for number in range(300_000))
    before = meter.read()
    assert sum(number * number for number in range(300_000))
    after = meter.read()

    assert after.cpu_s > before.cpu_s > 0
    assert 1024 < after.max_rss_kib < 64 * 1024 * 1024


def test_what_children_used_before_does_not_count():
    burn = "sum(number * number for number in range(3_000_000))"
    subprocess.run([sys.executable, "-c", burn], check=True)
    meter = ResourceMeter()
    none = meter.read()
    subprocess.run([sys.executable, "-c", burn], check=True)
    one = meter.read()

    assert none.cpu_s < one.cpu_s / 2


def test_resident_memory_is_bytes_on_macos_and_kib_elsewhere():
    assert resident_kib(3 * 1024 * 1024, "darwin") == 3 * 1024
    assert resident_kib(3 * 1024, "linux") == 3 * 1024


def test_the_document_is_written_to_a_directory_that_is_made(tmp_path):
    metrics = Metrics()
    metrics(Exchange("push", 1, START.timestamp(), 0.5, Failure("peer", "\udc80 ü \x1b")))
    document = results(metrics, RUN, TOOK)

    path = write_results(tmp_path / "out" / "run-1", document)

    assert path == tmp_path / "out" / "run-1" / "results.json"
    assert json.loads(path.read_bytes()) == document
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def test_an_older_document_is_replaced_whole(tmp_path):
    write_results(tmp_path, {"note": "x" * 100_000})
    path = write_results(str(tmp_path), {"note": "new"})
    assert json.loads(path.read_bytes()) == {"note": "new"}


def test_a_directory_that_is_a_file_is_the_operators_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OperatorError, match=r"cannot be written to .*taken/results\.json: "):
        write_results(tmp_path / "taken", {})


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(OperatorError, match="Is a directory"):
        write_results(tmp_path, {})
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_a_path_that_no_system_takes_is_the_operators_error(tmp_path):
    with pytest.raises(OperatorError, match="null"):
        write_results(f"{tmp_path}/a\0b", {})
