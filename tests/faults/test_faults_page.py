"""docs/faults.md: its tables are those of the program, its examples are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from agent.faults.effects import EFFECTS, At, On
from agent.faults.rules import Rule
from agent.scenario.keys import keys_of
from agent.scenario.reading import scenario_from
from agent.scenario.writing.reference import table_of

PAGE = (Path(__file__).parent.parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
PUSH_PAGE = (Path(__file__).parent.parent.parent / "docs" / "push.md").read_text(encoding="utf-8")


def effects_table() -> str:
    """The table of ``do`` by ``on``, in Markdown."""
    lines = ["| `do` | `on` | parameters | what happens |", "| --- | --- | --- | --- |"]
    for effect in EFFECTS:
        on = ", ".join(f"`{each}`" for each in effect.on)
        parameters = [f"`{name}`" for name in effect.needs] + [f"`{name}` (optional)" for name in effect.takes]
        lines.append(f"| `{effect.do}` | {on} | {', '.join(parameters) or 'none'} | {effect.meaning} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_effects_is_that_of_the_program() -> None:
    assert effects_table() in PAGE


def test_the_table_of_keys_is_that_of_the_program() -> None:
    assert table_of(keys_of(Rule).values()) in PAGE


@pytest.mark.parametrize("name", [*get_args(On), *get_args(At)])
def test_every_operation_and_every_point_is_described(name: str) -> None:
    assert f"\n| `{name}` | " in PAGE


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_are_valid(example: str) -> None:
    rules = tomllib.loads(example)["rule"]
    assert len(scenario_from({"phase": [{"kind": "enroll"}], "rule": rules}).rules) == len(rules) > 0


def test_there_are_four_examples_and_one_at_the_top() -> None:
    assert len(EXAMPLES) == 5


def test_the_push_page_describes_every_rule_for_pushes() -> None:
    table = PUSH_PAGE.partition("| `do` | effect |")[2]
    described = {
        name for row in re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert described == {effect.do for effect in EFFECTS if "push" in effect.on}


def test_the_rules_of_the_push_page_are_valid() -> None:
    rules = re.findall(r"--rule '(.*)'", PUSH_PAGE + PAGE)
    assert len(scenario_from({"phase": [{"kind": "enroll"}]}, (), rules).rules) == len(rules) == 5
