"""The document as types: the same keys as the schema says, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any, get_type_hints

import documents
import msgspec
import pytest

from agent.errors import OperatorError
from agent.report import document as types
from agent.report import schema
from agent.report.document import read_document
from agent.report.flattened import flattened
from agent.report.numbers import NOTHING

PAIRS = [
    (types.Document, schema.ResultsDocument),
    (types.Operation, schema.OperationDocument),
    (types.Stage, schema.StageDocument),
    (types.Latency, schema.LatencyDocument),
    (types.ErrorKind, schema.ErrorDocument),
    (types.Drop, schema.DropDocument),
    (types.Phase, schema.PhaseDocument),
    (types.Second, schema.SecondDocument),
    (types.SecondOfOperation, schema.EndedDocument),
    (types.Generator, schema.GeneratorDocument),
    (types.Worker, schema.WorkerDocument),
    (types.Lag, schema.LagDocument),
    (types.Span, schema.SpanDocument),
    (types.Overload, schema.OverloadDocument),
    (types.RecordedOutcome, schema.OutcomeDocument),
    (types.Limit, schema.VerdictDocument),
    (types.Resources, schema.ResourcesDocument),
    (types.Merged, schema.MergedDocument),
]


@pytest.mark.parametrize(("ours", "promised"), PAIRS)
def test_every_key_of_the_schema_has_its_attribute(ours: Any, promised: Any) -> None:
    assert {each.name for each in msgspec.structs.fields(ours)} == set(get_type_hints(promised))


@pytest.mark.parametrize("document", [documents.good, documents.failed, documents.empty, documents.smallest])
def test_the_samples_are_documents_of_the_schema(document: Any) -> None:
    msgspec.convert(document(), schema.ResultsDocument)
    assert msgspec.to_builtins(read_document(document()))["operations"] == document()["operations"]


def test_what_is_left_out_is_empty_and_what_is_unknown_passed_over() -> None:
    found = read_document({"schema": schema.SCHEMA, "of a later version": 1})
    assert (found.operations, found.limits, found.generator, found.resources.cpu_s) == ({}, [], None, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "lom-agent.results/1"}, r"found 'lom-agent\.results/1'"),
        ({"schema": None}, "found 'None'"),
        ({"devices": -1}, "devices"),
        ({"duration_s": float("inf")}, "duration_s"),
        ({"timeline": [{"t": 10**9}, {}]}, "t"),
        ({"operations": {"session": {"count": "many"}}}, "count"),
    ],
)
def test_anything_else_is_the_operators_error(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OperatorError, match=said):
        read_document(documents.smallest() | changes)


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
