"""Which differences are changes, and the sentences about them."""

from __future__ import annotations

import random
from typing import Any

import documents
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.measure.latencies import NO_LATENCIES, Latencies, LatencySummary
from agent.measure.summaries import OperationSummary, StageSummary
from agent.report.changes import Judgement, changes
from agent.report.compare import Comparison, compare, letter
from agent.report.numbers import NOTHING, TIMES
from agent.report.verdict import Level

COUNTS = st.integers(0, 100_000)


def operation(
    count: int = 5000, median_ms: float = 40.0, *, seed: int = 1, rate: float = 50.0, **counts: int
) -> OperationSummary:
    """An operation whose latencies were drawn by ``seed``."""
    dice = random.Random(seed)
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for _ in range(count - counts.get("errors", 0)):
        histogram.record_value(round(1000 * median_ms * dice.lognormvariate(0, 0.4)))
    names = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}
    found = histogram.get_percentile_to_value_dict(list(names.values()))  # all of them in one pass
    latency = {name: found[share] / 1000 for name, share in names.items()}
    return bare(
        count,
        rate_per_s=rate,
        latency_ms=LatencySummary(**latency, max=None, mean=None),
        histogram=histogram.encode().decode(),
        **counts,
    )


def bare(count: int, **parts: Any) -> OperationSummary:
    """An operation without latencies."""
    return OperationSummary(
        **{
            "count": count, "errors": 0, "late": 0, "dropped": 0, "rate_per_s": 0.0, "latency_ms": NO_LATENCIES,
            "clamped": 0, "histogram": Latencies().encoded(), **parts,
        }
    )  # fmt: skip


def stage(count: int) -> StageSummary:
    return StageSummary(count=count, latency_ms=NO_LATENCIES, clamped=0, histogram=Latencies().encoded())


def judged(before: OperationSummary, after: OperationSummary) -> dict[str, Judgement]:
    return {what: change.judgement for what, change in changes(before, after).items()}


def compared(*several: dict[str, Any]) -> Comparison:
    return compare([documents.typed(each) for each in several])


# Latencies


def test_slower_operation_is_worse_and_faster_one_better() -> None:
    found = judged(operation(seed=1), operation(median_ms=60.0, seed=2))
    assert found["p50"] is found["p90"] is found["p99"] is Judgement.WORSE
    found = judged(operation(median_ms=60.0, seed=1), operation(seed=2))
    assert found["p50"] is found["p90"] is found["p99"] is Judgement.BETTER


@pytest.mark.parametrize("median_ms", [38.0, 40.0, 42.0])
def test_change_below_the_threshold_does_not_count(median_ms: float) -> None:
    found = judged(operation(seed=1), operation(median_ms=median_ms, seed=2))
    assert found["p50"] is Judgement.SAME


def test_change_of_tenths_of_a_millisecond_does_not_count() -> None:
    found = judged(operation(median_ms=0.10), operation(median_ms=0.16))
    assert found["p50"] is Judgement.SAME


@pytest.mark.parametrize(("count", "judgement"), [(15, Judgement.CHANCE), (4000, Judgement.WORSE)])
def test_change_of_few_latencies_may_be_chance(count: int, judgement: Judgement) -> None:
    found = judged(operation(count, 40.0, seed=3), operation(count, 52.0, seed=4))
    assert found["p50"] is judgement


def test_p99_of_a_few_hundred_latencies_is_not_compared() -> None:
    assert judged(operation(900), operation(900, median_ms=400.0))["p99"] is Judgement.CHANCE
    assert judged(operation(900), operation(900, median_ms=400.0))["p50"] is Judgement.WORSE


def test_runs_of_one_server_rarely_differ() -> None:
    found = [judged(operation(3000, seed=2 * seed), operation(3000, seed=2 * seed + 1)) for seed in range(40)]
    called = [judgement for each in found for judgement in each.values() if judgement.value in ("worse", "better")]
    assert len(called) <= 2  # of 360


def test_latencies_without_histograms_are_not_compared() -> None:
    one, other = (bare(9000, latency_ms=LatencySummary(ms, *[None] * 6)) for ms in (10.0, 20.0))
    assert judged(one, other)["p50"] is Judgement.CHANCE
    assert judged(one, bare(9000))["p50"] is Judgement.UNKNOWN


def test_stages_are_compared_by_latency_only() -> None:
    assert set(changes(stage(5), stage(6))) == {"p50", "p90", "p95", "p99", "p99_9"}
    assert changes(None, stage(0)) == {}


# Counts and rates


@pytest.mark.parametrize(
    ("before", "after", "judgement"),
    [
        (0, 0, Judgement.SAME),
        (0, 1, Judgement.CHANCE),
        (0, 5, Judgement.WORSE),
        (100, 110, Judgement.CHANCE),
        (100, 140, Judgement.WORSE),
        (140, 100, Judgement.BETTER),
        (5, 0, Judgement.BETTER),
    ],
)
def test_errors_change_if_larger_than_chance(before: int, after: int, judgement: Judgement) -> None:
    one, other = (bare(10_000, errors=errors) for errors in (before, after))
    assert judged(one, other)["errors"] is judgement


def test_errors_are_compared_per_operation() -> None:
    found = changes(bare(1000, errors=100), bare(10_000, errors=1000))["errors"]
    assert (found.judgement, found.text) == (Judgement.SAME, "±0 %")


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_every_pair_of_counts_is_comparable_in_both_directions(a: int, b: int, c: int, d: int) -> None:
    one, other = (bare(count, errors=min(count, errors), dropped=errors) for count, errors in ((a, b), (c, d)))
    there, back = judged(one, other), judged(other, one)
    turned = {Judgement.WORSE: Judgement.BETTER, Judgement.BETTER: Judgement.WORSE}
    for what in ("errors", "dropped"):
        if {there[what], back[what]} & set(turned):
            assert back[what] in (turned.get(there[what]), Judgement.CHANCE) or there[what] is Judgement.CHANCE


@pytest.mark.parametrize(
    ("count", "rate", "judgement"),
    [
        (5000, 54.0, Judgement.SAME),
        (5000, 60.0, Judgement.BETTER),
        (5000, 40.0, Judgement.WORSE),
        (50, 60.0, Judgement.CHANCE),
        (5000, 0.0, Judgement.UNKNOWN),
    ],
)
def test_rates_are_compared(count: int, rate: float, judgement: Judgement) -> None:
    one, other = (bare(count, rate_per_s=each) for each in (50.0, rate))
    assert judged(one, other)["rate_per_s"] is judgement


# The whole


def slower() -> dict[str, Any]:
    """The run of `documents.failed`, measured by a load generator that kept up."""
    return documents.failed() | {"generator": documents.good()["generator"]}


def test_run_equals_itself() -> None:
    found = compared(documents.good(), documents.good())
    assert found.headline == "Run B is comparable with run A: nothing changed"
    assert (found.level, found.settings, found.cautions) == (Level.GOOD, (), ())


def test_regressions_are_listed_by_size() -> None:
    found = compared(documents.good(), slower())
    (against,) = found.against
    assert found.level is Level.BAD
    assert found.headline.startswith(f"Run B is comparable with run A: worse in {len(against.worse)} figures")
    assert "session has more errors: 0 → 429 (+1.85 %)." in against.worse
    assert f"session is slower: p50 31.1 ms → 51.4 ms (+65 %), p99 96.1 ms → 1.83 s ({TIMES}19.1)." in against.worse
    operations = [text.split()[0] for text in against.worse if "slower" in text]
    assert operations == ["delivery", "command", "session", "enqueue"]


def test_overloaded_generator_is_stated_first() -> None:
    found = compared(documents.good(), documents.failed())
    assert found.statements[0].text.startswith("In run B the load generator was overloaded")


def embedded(document: dict[str, Any]) -> None:
    document["generator"] |= {"embedded_lab": True, "trustworthy": False}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: run.update(generator=documents.failed()["generator"]), "the load generator was overloaded"),
        (embedded, "in run B the load generator and its embedded lab were overloaded"),
        (lambda run: run.update(complete=False), "run B did not finish"),
        (lambda run: run.update(complete=False, signal=2), "run B did not finish"),
        (lambda run: run.update(operations={}), "in run B no operation ended"),
        (lambda run: run["scenario"]["fleet"].update(devices=50), "(scenario.fleet.devices)"),
        (lambda run: run["scenario"]["phase"][1].update(share=0.5), "(scenario.phase.2.share)"),
        (lambda run: run.update(devices=7), "the load on the server differs (devices)"),
    ],
)
def test_incomparable_runs_have_reasons_and_no_verdict(change: Any, why: str) -> None:
    other = slower()
    change(other)
    for pair in ((documents.good(), other), (other, documents.good())):
        found = compared(*pair)
        assert found.headline.startswith("Run B is not comparable with run A: ")
        assert why.replace("run B", "run A" if pair[0] is other else "run B") in found.headline
        assert found.regressed
        assert found.level is not Level.BAD
        assert not [each for each in found.statements if each.text.startswith(("Worse", "Better"))]


def test_server_version_and_limits_may_differ() -> None:
    other = documents.good() | {"version": "0.5.0", "workers": 7, "seed": "other"}
    other["scenario"]["server"]["nanomdm"]["url"] = "https://other.example.com"
    other["scenario"] |= {"name": "another", "limits": []}
    assert compared(documents.good(), other).against[0].comparable


def test_late_starts_make_no_run_worse() -> None:
    other = documents.good()
    other["operations"]["delivery"]["late"] = 900
    (against,) = compared(documents.good(), other).against
    assert (against.worse, against.better) == ((), ())
    assert against.late == ("delivery has more late starts: 0 → 900 (+4.32 %).",)


def test_regression_follows_from_the_threshold() -> None:
    rates = [documents.good() for _ in range(2)]
    rates[1]["operations"]["session"]["rate_per_s"] *= 0.93
    both = [documents.typed(each) for each in rates]
    assert not compare(both).regressed
    assert compare(both, 0.05).regressed
    assert not compare(both[::-1], 0.05).regressed


def test_different_settings_make_runs_incomparable() -> None:
    other = documents.good()
    other["scenario"]["fleet"]["devices"] = 50
    other["version"] = "0.5.0"
    del other["host"]["twisted"]
    found = compared(documents.good(), other)
    assert {setting.name: setting.values for setting in found.settings} == {
        "version": ("0.4.0", "0.5.0"),
        "host.twisted": ("24.7.0", NOTHING),
        "scenario.fleet.devices": ("1200", "50"),
    }
    assert "differ in version, host.twisted, scenario.fleet.devices" in found.cautions[0].text


def test_every_run_is_compared_with_the_first() -> None:
    found = compared(slower(), documents.good(), slower(), documents.smallest())
    assert [against.name for against in found.against] == ["B", "C", "D"]
    assert found.against[0].better
    assert found.against[1].headline == "run C is comparable with run A: nothing changed"
    assert found.against[2].headline.startswith("run D is not comparable with run A: in run D no operation ended; ")
    assert "session" in found.against[2].missing


def test_comparison_of_one_run_raises_misuse_error() -> None:
    with pytest.raises(MisuseError, match="found 1"):
        compare([documents.typed(documents.good())])


def test_runs_are_named_by_letters() -> None:
    assert [letter(index) for index in range(3)] == ["A", "B", "C"]


def test_cut_short_operations_are_stated_and_make_no_run_worse() -> None:
    other = documents.good()
    other["operations"]["push"]["cut_short"] = 900
    other["cut_short"] = [{"operation": "push", "reason": "the run ended first", "count": 900}]
    found = compared(documents.good(), other)
    (caution,) = found.cautions
    assert caution.text == "In run B 900 operations were cut short: their latencies are missing."
    assert caution.details == (f"900 {TIMES} push: the run ended first",)
    assert (found.against[0].worse, found.regressed, found.level) == ((), False, Level.WARNING)


def test_a_run_with_failures_of_our_own_gateway_is_not_comparable() -> None:
    ours = documents.good()
    ours["errors"] = [{"operation": "push", "kind": "own_gateway", "count": 900, "example": ""}]
    ours["operations"]["push"]["errors"] = 900
    found = compared(documents.good(), ours)
    assert found.headline == (
        "Run B is not comparable with run A: in run B operations failed because of lom-agent's own push gateway"
    )
    assert not any(each.level is Level.BAD for each in found.statements)
    ours["errors"][0]["kind"] = "server_push"
    assert compared(documents.good(), ours).against[0].comparable
