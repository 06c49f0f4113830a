"""Refusals of the run's own push gateway: reported as ours, not as failures of the server."""

from datetime import UTC, datetime

import documents
import pytest
from consoles import terminal
from hypothesis import given
from hypothesis import strategies as st

from agent.measure.limits import parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import Exchange
from agent.push.broker import PushBroker
from agent.push.counts import merge_push_counts
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.report.document import Resources
from agent.report.junit import junit
from agent.report.merging import merge_documents
from agent.report.pushes import own_refusals
from agent.report.results import RunInfo, results
from agent.report.terminal.summary import print_summary

TITLE = "Refused by the push gateway of lom-agent: not failures of the server or of APNs"
LINES = [
    "  The gateway refused 1,234 pushes because this machine was overloaded (503 ServiceUnavailable).",
    "  The gateway refused 1 push because the worker process of their Macs was gone.",
    "  The gateway refused 2 pushes because the run was ending (503 Shutdown).",
    "  The gateway closed 3 connections because too many were open.",
]


def counted(overloaded=0, worker_lost=0, shutdown=0, connections=0):
    """The counts of a gateway that turned so many away."""
    broker = PushBroker(None)
    for cause, number in zip(OwnCause, (overloaded, worker_lost, shutdown), strict=False):
        for _ in range(number):
            broker.refuse(PushRefused(Reason.SERVICE_UNAVAILABLE, own=cause))
    for _ in range(connections):
        broker.turned_away()
    return broker.counts.as_json()


def summary(document):
    console = terminal()
    print_summary(console, documents.typed(document))
    return console.export_text().splitlines()


def test_own_push_refusals_are_in_the_summary():
    document = documents.good()
    document["push"] = merge_push_counts([counted(1200, 1, 0, 1), counted(34, 0, 2, 2)])
    lines = summary(document)
    rest = lines[lines.index(TITLE) + 1 :]
    text = " ".join(line.strip() for line in rest[: rest.index("")])
    assert text == " ".join(line.strip() for line in LINES)


def test_summary_without_own_refusals_has_no_mention():
    document = documents.good()
    document["push"] = counted()
    assert TITLE not in summary(document)


def test_own_refusals_do_not_change_the_verdict():
    document = documents.good()
    assert document["push"]["refused"] == {}
    before, last = junit(documents.typed(document)), summary(document)[-1]
    document["push"] = document["push"] | {"own": counted(9, 9, 9, 9)["own"]}
    assert junit(documents.typed(document)) == before
    assert summary(document)[-1] == last


def test_own_refusals_of_merged_runs_are_added_up():
    runs = [documents.good(), documents.good()]
    for run in runs:
        run["push"]["own"] = counted(3, connections=1)["own"]
    added = merge_documents([documents.typed(run) for run in runs]).push["own"]
    assert (added["overloaded"], added["connections"]) == (6, 2)


@pytest.mark.parametrize(
    ("own", "limit", "reliable"),
    [
        (counted(overloaded=1), "delivery.p99 < 1s", False),
        (counted(worker_lost=1), "push.max < 1s", False),
        (counted(connections=1), "enqueue.p99 < 1s", False),
        (counted(connections=1), "delivery.p99 < 1h", True),  # without our delay it would be less
        (counted(overloaded=1), "session.p99 < 1s", True),  # a session starts when its push has arrived
        (counted(overloaded=1), "delivery.errors > 1", True),
        (counted(shutdown=9), "delivery.p99 < 1s", True),
        (counted(), "delivery.p99 < 1s", True),
    ],
)
def test_a_time_that_our_own_refusals_made_longer_is_no_statement_about_the_server(own, limit, reliable):
    metrics = Metrics()
    for operation in ("push", "enqueue", "delivery", "session"):
        metrics(Exchange(operation, 0, 0.0, 3.0))
    run = RunInfo("1", "seed", 1, datetime(2026, 1, 1, tzinfo=UTC), 4.0)
    limits = [parse_limit(limit.replace("1h", "60m"))]
    generator = [{"worker": 0, "lag": {"p50": 0.0, "p99": 0.0, "max": 0.0}, "cpu_s": 0.0, "cpu_by_second": []}]
    generator[0]["max_rss_kib"] = 1
    document = results(
        metrics, run, Resources(1.0, 1), generator=generator, limits=limits, push=merge_push_counts([own])
    )
    assert document.generator.trustworthy
    assert [each.reliable for each in document.limits] == [reliable]
    assert [each.reliable for each in merge_documents([document, document]).limits] == [reliable]


@pytest.mark.parametrize("own", [None, 3, [], {}, {"overloaded": "many"}, {"overloaded": -1}, {"overloaded": True}])
def test_invalid_counts_are_ignored(own):
    assert own_refusals({"own": own}) == []
    assert own_refusals({}) == []


@given(st.dictionaries(st.sampled_from([cause.value for cause in OwnCause]), st.integers(0, 10**9)))
def test_each_cause_with_a_count_has_its_sentence(own):
    assert len(own_refusals({"own": own})) == sum(number > 0 for number in own.values())
