"""The connections of a run by their version of HTTP: counted, merged, and kept in results."""

from __future__ import annotations

import pytest
from documents import good, typed

from agent.errors import MisuseError, OperatorError
from agent.measure.metrics import Metrics
from agent.report.merging import merge_documents
from agent.report.results import counted


def some(**versions: int) -> Metrics:
    metrics = Metrics()
    for version, count in {"HTTP/2": versions.get("two", 0), "HTTP/1.1": versions.get("one", 0)}.items():
        for _ in range(count):
            metrics.connected(version)
    return metrics


def test_connections_are_counted_and_merged() -> None:
    assert some().connections() == {}
    metrics = some(two=2)
    metrics.merge(some(two=1, one=3).snapshot())
    assert metrics.connections() == counted(metrics)["connections"] == {"HTTP/2": 3, "HTTP/1.1": 3}
    with pytest.raises(MisuseError):
        metrics.connected("HTTP/3")


def test_a_snapshot_of_an_earlier_version_has_none() -> None:
    snapshot = some(two=1).snapshot()
    del snapshot["connections"]
    metrics = some(one=1)
    metrics.merge(snapshot)
    assert metrics.connections() == {"HTTP/1.1": 1}
    with pytest.raises(OperatorError):
        metrics.merge(snapshot | {"connections": {"HTTP/3": 1}})


def test_results_are_merged_with_their_connections() -> None:
    documents = [typed({**good(), "connections": {"HTTP/2": 5}}), typed({**good(), "connections": {"HTTP/1.1": 1}})]
    assert merge_documents([*documents, typed(good())]).connections == {"HTTP/2": 5, "HTTP/1.1": 1}
