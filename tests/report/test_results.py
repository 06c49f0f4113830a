"""What a program that reads results.json can rely on."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from documents import plain
from hdrh.histogram import HdrHistogram
from msgspec.structs import replace

from agent.errors import MisuseError, OperatorError
from agent.measure.latencies import Latencies
from agent.measure.limits import judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import Exchange, Failure
from agent.measure.summaries import PhaseSummary
from agent.measure.timeline import TimeLine
from agent.report import results as results_module
from agent.report.document import Resources
from agent.report.results import STILL_OPEN, ResourceMeter, RunInfo, read_results, results, write_results

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUN = RunInfo(version="1.2.3", seed="orchard", devices=50, started=START, duration_s=12.34567)
TOOK = Resources(cpu_s=1.23456, max_rss_kib=2048)


def measured():
    metrics = Metrics()
    for second in range(4):
        metrics(Exchange("command", 1, START.timestamp() + second, 0.5))
    metrics(Exchange("push", 1, START.timestamp(), 0.5, Failure("peer", "410 Unregistered")))
    metrics.late("command")
    metrics.dropped("push", "the Mac was off", 2)
    metrics.stage("connect", 0.25)
    return metrics


def lag(*milliseconds):
    latencies = Latencies()
    for each in milliseconds:
        latencies.record(each / 1000)
    return latencies.encoded()


def worker(number, *, lag, shares=(0.5,)):
    return {"worker": number, "lag": lag, "cpu_s": 1.23456, "cpu_by_second": list(shares), "max_rss_kib": 1000 + number}


PHASE = {
    "name": "wake",
    "kind": "checkin",
    "started_s": 1.0,
    "ended_s": 9.5,
    "planned": 10,
    "started": 9,
    "done": 8,
    "failed": 1,
    "late": 1,
    "dropped": 1,
}


def full_document():
    metrics = measured()
    timeline = TimeLine()
    timeline.add(0, {"operations": metrics.take_second(), "macs": {"idle": 50}, "connections": 7, "lag_ms": 1.0})
    timeline.add(1, {"cpu": 0.25})
    return results(
        metrics,
        RunInfo("1.2.3", "orchard", 50, START, 12.34567, name="evening", workers=2),
        TOOK,
        timeline=timeline,
        phases=[PhaseSummary(**PHASE)],
        generator=[worker(0, lag=lag(1.0)), worker(1, lag={"p50": 1.0, "p99": 2.0, "max": 3.00049})],
        limits=[judge(parse_limit("command.p99 < 1s"), metrics), judge(parse_limit("push.errors == 0"), metrics)],
        push={"accepted": 3},
        keys={"pool": 5, "reused": 2},
        scenario={"name": "evening", "limits": ["command.p99 < 1s"]},
        incomplete_because="worker 1 died",
    )


NO_LATENCY = dict.fromkeys(("p50", "p90", "p95", "p99", "p99_9", "max", "mean"))


def test_document_has_exactly_the_documented_keys():
    document = plain(full_document())
    histograms = [document["operations"][name].pop("histogram") for name in ("command", "push")]
    histograms.append(document["stages"]["connect"].pop("histogram"))
    assert [HdrHistogram.decode(each).get_total_count() for each in histograms] == [4, 0, 1]
    assert set(document.pop("host")) == {"platform", "python", "openssl", "twisted", "cores"}
    [first, second] = document.pop("timeline")
    assert (first["t"], first["macs"]["idle"], first["operations"]["push"]["errors"]) == (0, 50, 1)
    assert (second["t"], second["cpu"]) == (1, 0.25)

    assert document == {
        "schema": "lom-agent.results/2",
        "version": "1.2.3",
        "name": "evening",
        "seed": "orchard",
        "devices": 50,
        "workers": 2,
        "started": "2026-01-31T12:00:00.000Z",
        "duration_s": 12.346,
        "complete": False,
        "incomplete_because": "worker 1 died",
        "outcome": {
            "exit_status": 1,
            "reasons": [
                "The run did not finish: worker 1 died.",
                "push.errors was 1; the limit is == 0.",
            ],
        },
        "operations": {
            "command": {
                "started": 4,
                "count": 4,
                "errors": 0,
                "timed_out": 0,
                "user_channel": 0,
                "cut_short": 0,
                "late": 1,
                "dropped": 0,
                "rate_per_s": 1.143,
                "latency_ms": dict.fromkeys(NO_LATENCY, 500.0),
                "clamped": 0,
            },
            "push": {
                "started": 1,
                "count": 1,
                "errors": 1,
                "timed_out": 0,
                "user_channel": 0,
                "cut_short": 0,
                "late": 0,
                "dropped": 2,
                "rate_per_s": 0.0,
                "latency_ms": NO_LATENCY,
                "clamped": 0,
            },
        },
        "stages": {"connect": {"count": 1, "latency_ms": dict.fromkeys(NO_LATENCY, 250.0), "clamped": 0}},
        "errors": [{"operation": "push", "kind": "peer", "count": 1, "example": "410 Unregistered"}],
        "dropped": [{"operation": "push", "reason": "the Mac was off", "count": 2}],
        "cut_short": [],
        "phases": [PHASE],
        "generator": {
            "trustworthy": True,
            "embedded_lab": False,
            "reasons": [],
            "overloaded": [],
            "workers": [
                {
                    "worker": 0,
                    "lag_ms": {"p50": 1.0, "p99": 1.0, "max": 1.0},
                    "cpu_s": 1.235,
                    "busiest_second": 0.5,
                    "max_rss_kib": 1000,
                    "phases": [],
                },
                {
                    "worker": 1,
                    "lag_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0},
                    "cpu_s": 1.235,
                    "busiest_second": 0.5,
                    "max_rss_kib": 1001,
                    "phases": [],
                },
            ],
        },
        "limits": [
            {
                "limit": "command.p99 < 1s",
                "ok": True,
                "reliable": True,
                "found": "0.5 s",
                "sentence": "command.p99 was 0.5 s; the limit is < 1 s.",
            },
            {
                "limit": "push.errors == 0",
                "ok": False,
                "reliable": True,
                "found": "1",
                "sentence": "push.errors was 1; the limit is == 0.",
            },
        ],
        "push": {"accepted": 3},
        "keys": {"pool": 5, "reused": 2},
        "resources": {"cpu_s": 1.235, "max_rss_kib": 2048},
        "scenario": {"name": "evening", "limits": ["command.p99 < 1s"]},
    }


def test_complete_run_has_no_empty_optional_keys():
    document = plain(results(Metrics(), RUN, TOOK))
    assert document["complete"]
    assert {"incomplete_because", "push", "keys", "scenario"} & set(document) == set()


# The load generator


def generator(*workers):
    found = results(Metrics(), RUN, TOOK, generator=workers).generator
    return found.trustworthy, found.reasons


def test_a_generator_that_kept_up_is_trustworthy():
    idle = worker(0, lag=lag(*[1.0] * 99, 900.0), shares=[0.95] + [0.9] * 9)
    assert generator(idle) == (True, [])


def test_lagging_generator_is_not_trustworthy():
    assert generator(worker(0, lag=lag(1.0)), worker(1, lag=lag(*[80.0] * 10))) == (
        False,
        ["The event loop of worker 1 lagged by 80 ms (p99); up to 50 ms is reliable."],
    )


def test_generator_out_of_cpu_is_not_trustworthy():
    assert generator(worker(3, lag=lag(1.0), shares=[0.95, 0.95, *[0.2] * 8])) == (
        False,
        ["Worker 3 used over 90 % of its core in 2 of 10 seconds."],
    )


def test_unmeasured_generator_is_not_trustworthy():
    assert generator() == (False, ["The load generator did not measure itself."])
    assert generator(worker(2, lag=None, shares=[])) == (False, ["Worker 2 did not report how it kept up."])


def test_worker_without_measurements_has_no_lag():
    assert generator(worker(0, lag=lag(), shares=[])) == (True, [])


def test_run_without_operations_gives_a_document():
    document = results(Metrics(), RUN, TOOK)
    assert (document.operations, document.errors) == ({}, [])


def test_start_without_a_time_zone_raises_misuse_error():
    with pytest.raises(MisuseError, match="time zone"):
        RunInfo("1", 1, 1, datetime(2026, 1, 31), 1.0)


def test_resources_are_measured():
    meter = ResourceMeter()
    assert sum(number * number for number in range(300_000))
    before = meter.read()
    assert sum(number * number for number in range(300_000))
    after = meter.read()

    assert after.cpu_s > before.cpu_s > 0
    assert 1024 < after.max_rss_kib < 64 * 1024 * 1024


@pytest.mark.slow
def test_cpu_of_earlier_children_does_not_count():
    burn = "sum(number * number for number in range(3_000_000))"
    subprocess.run([sys.executable, "-c", burn], check=True)
    meter = ResourceMeter()
    none = meter.read()
    subprocess.run([sys.executable, "-c", burn], check=True)
    one = meter.read()

    assert none.cpu_s < one.cpu_s / 2


def test_directory_of_the_document_is_created(tmp_path):
    metrics = Metrics()
    metrics(Exchange("push", 1, START.timestamp(), 0.5, Failure("peer", "\udc80 ü \x1b")))
    document = results(metrics, RUN, TOOK)

    path = write_results(tmp_path / "out" / "run-1", document)

    assert path == tmp_path / "out" / "run-1" / "results.json"
    assert json.loads(path.read_bytes()) == plain(document)
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def test_older_document_is_replaced_atomically(tmp_path):
    document = results(Metrics(), RUN, TOOK)
    write_results(tmp_path, replace(document, scenario={"note": "x" * 100_000}))
    path = write_results(str(tmp_path), document)
    assert json.loads(path.read_bytes()) == plain(document)


def test_open_operations_are_cut_short_in_the_results():
    metrics = Metrics()
    for _ in range(3):
        metrics.started("session")
    metrics(Exchange("session", 1, START.timestamp(), 0.5))
    metrics(Exchange("session", 1, START.timestamp(), 0.5, cut_short="the run ended first"))
    document = results(metrics, RUN, TOOK)
    assert (document.operations["session"].started, document.operations["session"].cut_short) == (3, 2)
    assert [(each.reason, each.count) for each in document.cut_short] == [("the run ended first", 1), (STILL_OPEN, 1)]


def test_directory_that_is_a_file_raises_operator_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OperatorError, match=r"taken/results\.json cannot be written: "):
        write_results(tmp_path / "taken", full_document())


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(OperatorError, match="Is a directory"):
        write_results(tmp_path, full_document())
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_invalid_path_raises_operator_error(tmp_path):
    with pytest.raises(OperatorError, match="null"):
        write_results(f"{tmp_path}/a\0b", full_document())


# Reading one back


def test_document_survives_a_round_trip(tmp_path):
    document = full_document()
    path = write_results(tmp_path, document)

    assert read_results(path) == document
    assert read_results(str(tmp_path)) == document
    assert json.loads(path.read_bytes()) == plain(document)


def test_a_second_of_the_time_line_is_one_line(tmp_path):
    lines = write_results(tmp_path, full_document()).read_text().splitlines()
    assert sum(line.startswith('    {"t": ') for line in lines) == 2


@pytest.mark.parametrize("text", ["", "time", '\n  "timeline": []', 'x": [], "timeline": []'])
def test_text_is_not_mistaken_for_the_time_line(tmp_path, text):
    document = replace(full_document(), name=text, scenario={"timeline": [], text: [text, {"timeline": []}]})
    path = write_results(tmp_path, document)
    assert json.loads(path.read_bytes()) == plain(document)


def test_unknown_keys_are_ignored(tmp_path):
    document = full_document()
    (tmp_path / "results.json").write_text(json.dumps({**plain(document), "mood": "good"}))
    assert read_results(tmp_path) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found something else"),
        ("[]", "found something else"),
        ("{}", "found no key schema"),
        ('{"schema": 2}', "found something else"),
        ('{"schema": "lom-agent.results/1"}', "found 'lom-agent.results/1'"),
        ('{"schema": "lom-agent.results/3"}', "found 'lom-agent.results/3'"),
        ('{"schema": "lom-agent.results/2"}', "found something else: Object missing required field"),
        ("[" * 100_000, "found something else"),
        ('{"schema": "\\ud800"}', "found something else"),
    ],
)
def test_document_of_another_version_is_named(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(OperatorError, match=rf"Expected results of the schema lom-agent\.results/2 in .*{message}"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("operations",), []),
        (("operations", "push", "count"), -1),
        (("operations", "push", "count"), "many"),
        (("operations", "push", "latency_ms", "p50"), "fast"),
        (("timeline", 0, "t"), -1),
        (("timeline", 0, "macs"), None),
        (("generator", "trustworthy"), 1),
        (("phases", 0, "ended_s"), -1.0),
        (("limits", 0, "sentence"), None),
        (("scenario",), []),
    ],
)
def test_a_document_of_another_shape_is_refused(tmp_path, path, value):
    document = plain(full_document())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(OperatorError, match="found something else: Expected"):
        read_results(tmp_path)


def test_missing_document_raises_operator_error(tmp_path):
    with pytest.raises(OperatorError, match=r"results\.json cannot be read: No such file"):
        read_results(tmp_path / "results.json")
    with pytest.raises(OperatorError, match="null"):
        read_results("a\0b")


def test_a_document_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = write_results(tmp_path, full_document())
    monkeypatch.setattr(results_module, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(OperatorError, match="Expected at most"):
        read_results(path)
