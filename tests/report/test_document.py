"""The document as types: what a file must have, what it may leave out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import documents
import pytest

from agent.errors import OperatorError
from agent.report.flattened import flattened
from agent.report.numbers import NOTHING
from agent.report.results import read_results, write_results


def read(document: dict[str, Any], folder: Path) -> Any:
    (folder / "results.json").write_text(json.dumps(document))
    return read_results(folder)


@pytest.mark.parametrize("make", [documents.good, documents.failed, documents.empty, documents.smallest])
def test_sample_documents_follow_the_schema(make: Any, tmp_path: Path) -> None:
    found = documents.plain(read(make(), tmp_path))
    for key, value in make().items():
        if key not in ("phases", "generator", "limits"):  # keys of a later version are added there
            assert found[key] == value, key


def test_missing_keys_are_empty_and_unknown_keys_ignored(tmp_path: Path) -> None:
    found = read(documents.smallest() | {"of a later version": 1}, tmp_path)
    assert (found.cut_short, found.outcome, found.scenario, found.merged) == ([], None, None, None)
    assert (found.generator.overloaded, found.generator.embedded_lab) == ([], False)
    worker = read(documents.good(), tmp_path).generator.workers[0]
    assert (worker.phases, worker.silent_s, worker.key_waits) == ([], None, None)
    phase = read(documents.good(), tmp_path).phases[0]
    assert (phase.cut_short, phase.key_waits) == (None, None)


def test_rewritten_file_keeps_its_keys_in_order(tmp_path: Path) -> None:
    document = read(documents.good(), tmp_path)
    first = write_results(tmp_path / "one", document).read_bytes()
    again = write_results(tmp_path / "two", read_results(tmp_path / "one")).read_bytes()
    assert first == again
    assert list(json.loads(first)) == [
        "schema", "version", "name", "seed", "devices", "workers", "started", "duration_s", "complete", "operations",
        "stages", "errors", "dropped", "cut_short", "phases", "timeline", "generator", "limits", "push", "keys",
        "resources", "scenario", "host",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "lom-agent.results/1"}, r"found 'lom-agent\.results/1'"),
        ({"schema": None}, "no key schema"),
        ({"devices": -1}, "devices"),
        ({"duration_s": -1.0}, "duration_s"),
        ({"operations": []}, "operations"),
        ({"duration_s": float("inf")}, "malformed"),
        ({"timeline": [{"t": 10**9}, {}]}, "t"),
        ({"operations": {"session": {"count": "many"}}}, "count"),
    ],
)
def test_other_documents_raise_operator_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=message):
        read(documents.smallest() | changes, tmp_path)


def test_nested_settings_become_lines() -> None:
    plain = {
        "name": "x",
        "fleet": {"devices": 3, "power": {}},
        "phase": [{"kind": "enroll", "wait": True}, {"kind": "idle"}],
        "limits": ["a < 1", "b < 2"],
        "ca": [],
        "seed": None,
    }
    assert flattened(plain) == [
        ("name", "x"),
        ("fleet.devices", "3"),
        ("fleet.power", "none"),
        ("phase.1.kind", "enroll"),
        ("phase.1.wait", "yes"),
        ("phase.2.kind", "idle"),
        ("limits", "a < 1, b < 2"),
        ("ca", "none"),
        ("seed", NOTHING),
    ]
