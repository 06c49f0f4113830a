"""Code that nothing uses: vulture finds names of ``agent/`` that neither ``agent/`` nor ``fixtures/`` mentions.

What only a test uses is dead too. Vulture compares bare names, so a dead method escapes while another class has a used
one of the same name.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from collections_off import without_collections
from vulture import Vulture
from vulture_allowed import ALLOWED

ROOT = Path(__file__).parent.parent
SCANNED = (ROOT / "agent", ROOT / "fixtures")
PERCENT = 60  # vulture's confidence in functions, classes, methods and attributes
RECORDS = {"Struct", "TypedDict", "NamedTuple", "Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"}


@cache
def unused(*scanned: Path) -> set[str]:
    """The full names that nothing uses, such as ``net.mac.power: press``; fields of ``RECORDS`` are left out."""
    vulture = Vulture()
    with without_collections():
        vulture.scavenge([str(path) for path in scanned])
    return {
        f"{_module(Path(item.filename), scanned[0])}: {item.name}"
        for item in vulture.get_unused_code(min_confidence=PERCENT)
        if item.first_lineno not in lines_of_records(Path(item.filename))
    }


def _module(path: Path, package: Path) -> str:
    return path.relative_to(package).with_suffix("").as_posix().replace("/", ".") if package in path.parents else ""


@cache
def lines_of_records(path: Path) -> set[int]:
    """The lines of the fields and members of records, which are read and written as a whole."""
    found: set[int] = set()
    kinds = set(RECORDS)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and kinds.intersection(
            ast.unparse(base).split(".")[-1] for base in node.bases
        ):
            kinds.add(node.name)
            found.update(line.lineno for line in node.body if isinstance(line, ast.Assign | ast.AnnAssign))
    return found


def test_no_code_is_unused() -> None:
    assert sorted(unused(*SCANNED) - {*ALLOWED}) == [], (
        "delete it, or list in tests/support/vulture_allowed.py who uses it"
    )


def test_every_entry_of_the_vulture_allow_list_is_needed() -> None:
    assert sorted({*ALLOWED} - unused(*SCANNED)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def dead(): pass", {"module: dead"}),
        ("class Dead: pass", {"module: Dead"}),
        ("class Used:\n    def dead(self): pass\nUsed()", {"module: dead"}),
        ("def used(): pass\nused()", set()),
        ("class Kind(Enum):\n    MEMBER = 1\nKind", set()),
        ("class Base(Struct):\n    field: int\nclass Other(Base):\n    another: int\nOther", set()),
        ("class Other:\n    field: int\nOther", {"module: field"}),
    ],
)
def test_unused_code_is_reported_by_name(tmp_path: Path, text: str, found: set[str]) -> None:
    (tmp_path / "module.py").write_text(text, encoding="utf-8")
    assert unused(tmp_path) == found
