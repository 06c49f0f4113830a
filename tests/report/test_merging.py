"""Documents of several runs make one, as if everything had been one run."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from documents import plain
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.errors import OperatorError
from agent.measure.limits import judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import Exchange, Failure
from agent.measure.summaries import PhaseSummary
from agent.measure.timeline import TimeLine
from agent.report.document import Resources
from agent.report.merging import merge_documents, metrics_of
from agent.report.results import RunInfo, read_results, results, write_results

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PHASE = {
    "name": "wake",
    "kind": "checkin",
    "started_s": 1.0,
    "ended_s": 9.5,
    "planned": 10,
    "started": 9,
    "done": 8,
    "failed": 1,
    "cut_short": 1,
    "late": 1,
    "dropped": 1,
}

records = st.builds(
    Exchange,
    operation=st.sampled_from(["session", "push"]),
    device=st.just(0),
    started=st.floats(0.0, 100.0),
    seconds=st.floats(0.0, 100.0),
    failure=st.none() | st.builds(Failure, st.sampled_from(["peer", "tls"]), st.just("no")),
)


def counted(seen):
    metrics = Metrics()
    for record in seen:
        metrics(record)
    return metrics


def document(metrics, *, later=0.0, **given_facts):
    facts = {"version": "1", "seed": "orchard", "devices": 50, "duration_s": 10.0, "name": "evening", "workers": 2}
    run = {key: given_facts.pop(key, fact) for key, fact in facts.items()}
    lag = {"p50": 1.0, "p99": 2.0, "max": 3.0}
    worker = {"worker": 0, "lag": lag, "cpu_s": 1.0, "cpu_by_second": [0.5], "max_rss_kib": 9}
    return results(
        metrics,
        RunInfo(started=START + timedelta(seconds=later), **run),
        Resources(1.5, 100),
        **{"phases": [PhaseSummary(**PHASE)], "generator": [worker], **given_facts},
    )


def merged_plain(documents):
    return plain(merge_documents(documents))


def sessions(*seconds):
    return counted([Exchange("session", 0, 0.0, each) for each in seconds])


@examples(20, explored=50)
@given(st.lists(st.lists(records, max_size=10), min_size=1, max_size=3))
def test_merged_counts_percentiles_and_failures_equal_those_of_all_records(parts):
    whole = counted(record for part in parts for record in part)
    merged = merged_plain([document(counted(part)) for part in parts])

    assert list(merged["operations"]) == whole.operations()
    for name, operation in merged["operations"].items():
        summary = whole.summary(name)
        assert operation["histogram"] == summary.histogram
        assert (operation["count"], operation["errors"]) == (summary.count, summary.errors)
        assert operation["clamped"] == summary.clamped
        assert operation["latency_ms"]["p99"] == summary.latency_ms.p99
        assert operation["latency_ms"]["max"] == summary.latency_ms.max
        assert operation["latency_ms"]["mean"] == pytest.approx(summary.latency_ms.mean, abs=0.002)
    assert sum(error["count"] for error in merged["errors"]) == sum(each.count for each in whole.failures())


@examples(20, explored=50)
@given(st.lists(records, max_size=20))
def test_merging_one_document_keeps_it(seen):
    merged = merged_plain([document(counted(seen))])
    alone = plain(document(counted(seen)))
    assert merged.pop("merged") == {"runs": 1, "left_out": []}
    for name, operation in alone["operations"].items():
        assert merged["operations"][name]["rate_per_s"] == pytest.approx(operation.pop("rate_per_s"), abs=0.001)
        del merged["operations"][name]["rate_per_s"]
        assert merged["operations"][name]["latency_ms"].pop("mean") == pytest.approx(
            operation["latency_ms"].pop("mean"), abs=0.001
        )
    assert merged == alone


def test_metrics_survive_a_round_trip_through_a_document(tmp_path):
    metrics = sessions(0.1, 0.2, 0.3)
    metrics.stage("connect", 0.05)
    metrics.late("session")
    metrics.dropped("push", "the Mac was off", 3)
    found = metrics_of(read_results(write_results(tmp_path, document(metrics))))

    assert found.summary("session") == metrics.summary("session")
    assert found.summary("push") == metrics.summary("push")
    assert found.stage_summary("connect") == metrics.stage_summary("connect")
    assert found.drops() == metrics.drops()


def test_devices_workers_and_pushes_are_added_up():
    timeline = TimeLine()
    timeline.add(1, {"connections": 3, "macs": {"idle": 4}, "lag_ms": 7.0})
    one = document(sessions(0.1), later=5.0, push={"accepted": 2, "refused": {"Gone": 1}}, timeline=timeline)
    other = document(sessions(0.3), duration_s=20.0, push={"accepted": 3, "refused": {"Gone": 1, "Bad": 1}})
    merged = merged_plain([one, other])

    assert (merged["devices"], merged["workers"], merged["duration_s"]) == (100, 4, 20.0)
    assert (merged["started"], merged["seed"], merged["name"]) == ("2026-01-31T12:00:00.000Z", "orchard", "evening")
    assert merged["push"] == {"accepted": 5, "refused": {"Gone": 2, "Bad": 1}}
    assert merged["phases"] == [
        {**PHASE, "planned": 20, "started": 18, "done": 16, "failed": 2, "cut_short": 2, "late": 2, "dropped": 2}
    ]
    assert merged["resources"] == {"cpu_s": 3.0, "max_rss_kib": 100}
    assert [each["worker"] for each in merged["generator"]["workers"]] == [0, 1]
    assert (merged["complete"], merged["generator"]["trustworthy"]) == (True, True)
    [row] = merged["timeline"]
    assert (row["t"], row["connections"], row["macs"]["idle"], row["lag_ms"], row["cpu"]) == (1, 3, 4, 7.0, None)


def test_merged_rate_is_that_of_all_runs():
    metrics = counted([Exchange("session", 0, float(second), 1.0) for second in range(10)])
    merged = merged_plain([document(metrics), document(metrics)])
    assert merged["operations"]["session"]["rate_per_s"] == 2.0


def test_limits_are_judged_again_over_all_runs():
    fast, slow = sessions(*[0.1] * 999), sessions(9.0)
    limit = parse_limit("session.p99 < 1s")
    merged = merged_plain([document(each, limits=[judge(limit, each)]) for each in (fast, slow)])
    assert [(each["limit"], each["ok"]) for each in merged["limits"]] == [("session.p99 < 1s", True)]


def test_unmergeable_values_are_left_out_and_named():
    one, other = TimeLine(), TimeLine()
    for line, seconds in ((one, (0.1, 0.1)), (other, (0.5, 0.5))):
        line.add(0, {"operations": sessions(*seconds).take_second()})
    merged = merged_plain(
        [
            document(sessions(0.1), timeline=one, scenario={"name": "a"}),
            document(sessions(0.5), timeline=other, scenario={"name": "b"}, seed=7, name="b", phases=[]),
        ]
    )

    assert (merged["seed"], merged["name"], merged["phases"]) == (None, "evening + b", [])
    assert "scenario" not in merged
    assert merged["timeline"][0]["operations"]["session"]["p50_ms"] == pytest.approx(500.0, rel=0.03)
    text = " ".join(merged["merged"]["left_out"])
    for what in ("seed", "phases", "scenario", "time line"):
        assert what in text


def test_incomplete_or_overloaded_run_marks_the_merged_document():
    merged = merged_plain(
        [document(sessions(0.1)), document(sessions(0.1), incomplete_because="it was interrupted", generator=[])]
    )
    assert merged["incomplete_because"] == "run 2: it was interrupted"
    assert not merged["complete"]
    assert merged["generator"]["reasons"] == ["Run 2: The load generator did not measure itself."]
    assert not merged["generator"]["trustworthy"]


def test_merged_document_can_be_read_and_merged_again(tmp_path):
    pair = merge_documents([document(sessions(0.1)), document(sessions(0.2), seed="other")])
    assert read_results(write_results(tmp_path, pair)) == pair
    again = merged_plain([pair, document(sessions(0.3))])
    assert again["merged"]["runs"] == 3
    assert again["operations"]["session"]["count"] == 3
    assert json.loads(json.dumps(again)) == again


def test_missing_and_inconsistent_documents_raise_operator_error():
    with pytest.raises(OperatorError, match="found none"):
        merge_documents([])
    broken = document(sessions(0.1))
    broken.operations["session"] = replace(broken.operations["session"], count=2)
    with pytest.raises(OperatorError, match="cannot be merged"):
        merge_documents([broken])
