"""Any file gives a page or our error: real documents, changed in their structure and byte by byte, for every reader."""

from __future__ import annotations

import json
from contextlib import suppress
from copy import deepcopy
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import documents
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.errors import OperatorError
from agent.report.compare import compare
from agent.report.html import report_html
from agent.report.junit import junit
from agent.report.merging import merge_documents
from agent.report.results import read_results, write_results
from agent.report.terminal import print_summary
from agent.report.verdict import verdict

KEPT = {"session", "delivery", "lom_link", "return", "connect", "handshake_resumed"}


def small(make: Any) -> dict[str, Any]:
    """A real document with a short timeline, the operations that its limits and errors name, and two stages.

    Percentiles and merging take most of the time of a page, in proportion to the number of histograms.
    """
    document: dict[str, Any] = make()
    document["timeline"] = document["timeline"][118:124]
    for part in ("operations", "stages"):
        document[part] = {name: each for name, each in document[part].items() if name in KEPT}
    return document


@cache
def smalls() -> list[dict[str, Any]]:
    """Made by the first test, not when the file is collected: each worker of pytest-xdist collects all files."""
    return [small(documents.failed), small(documents.good), documents.empty()]


VALUES = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            2**40,
            2**63,
            1e12,
            0.5,
            -0.0,
            "",
            "x",
            "\x00",
            "\ud800",
            "9" * 5000,
            [],
            {},
            [{}],
        ]
    ),
    st.text(max_size=8),
    st.integers(-5, 200_000),
    st.floats(allow_nan=False),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document, with each of its keys."""
    found, waiting = [], [value]
    while waiting:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else list(range(len(each)))
        found += [(each, key) for key in keys]
        waiting += [each[key] for key in keys if isinstance(each[key], dict | list)]
    return found


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A real document in which some values are others, taken from elsewhere in it, doubled or missing."""
    document = deepcopy(draw(st.sampled_from(smalls())))
    for _ in range(draw(st.integers(1, 4))):
        spots = places(document)
        container, key = draw(st.sampled_from(spots))
        match draw(st.sampled_from(["set", "move", "delete", "double", "rename"])):
            case "set":
                container[key] = draw(VALUES)
            case "move":
                other, name = draw(st.sampled_from(spots))
                container[key] = deepcopy(other[name])
            case "delete":
                del container[key]
            case "double" if isinstance(container, list):
                container.append(deepcopy(container[key]))
            case "rename" if isinstance(container, dict):
                container[draw(st.text(max_size=5))] = container.pop(key)
            case _:
                pass
    return document


def by_all(path: Path) -> None:
    """Every reader of results, as `lom-agent report` and a run call them."""
    document = read_results(path)
    console = Console(file=StringIO(), width=80)
    verdict(document)
    other = documents.typed(smalls()[1])
    for read in (
        lambda: print_summary(console, document),
        lambda: junit(document),
        lambda: report_html([document]),
        lambda: report_html([document, other]),
        lambda: report_html([other, document]),
        lambda: compare([document, other, document]),
        lambda: write_results(path.parent / "merged", merge_documents([document])),
        lambda: write_results(path.parent / "merged", merge_documents([other, document])),
    ):
        try:
            read()
        except OperatorError:
            continue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def empty_histogram() -> dict[str, Any]:
    """Counts without latencies: an edited file, with an operation that has no histogram."""
    document = deepcopy(smalls()[1])
    nothing = documents.nothing_succeeded(0)["histogram"]
    for part in ("operations", "stages"):
        for each in document[part].values():
            each["histogram"] = nothing
    return document


def read_edited(folder: Path, document: dict[str, Any]) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps(document))
    with suppress(OperatorError):
        by_all(path)


def test_counts_without_latencies_give_a_page_or_operator_error(folder: Path) -> None:
    read_edited(folder, empty_histogram())


@examples(10, explored=25)
@given(changed())
def test_edited_document_gives_a_page_or_operator_error(folder: Path, document: dict[str, Any]) -> None:
    read_edited(folder, document)


@cache
def whole() -> list[bytes]:
    return [json.dumps(document).encode() for document in smalls()]


@examples(10, explored=25)
@given(
    st.deferred(lambda: st.sampled_from(whole())),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=4)), min_size=1, max_size=4),
)
def test_corrupted_file_gives_a_page_or_operator_error(
    folder: Path, octets: bytes, changes: list[tuple[int, bytes]]
) -> None:
    for position, new in changes:
        at = position % len(octets)
        octets = octets[:at] + new + octets[at + len(new) :]
    path = folder / "results.json"
    path.write_bytes(octets)
    with suppress(OperatorError):
        by_all(path)
