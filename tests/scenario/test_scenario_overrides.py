"""Overrides: a dotted key and a value, put over the file's before anything is checked."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OperatorError
from agent.scenario.reading import scenario_from
from agent.scenario.writing.redacted import as_document

TEXT = """
[fleet]
devices = 50

[[phase]]
kind = "enroll"

[[phase]]
name = "patch"
kind = "command"
rate = 5
"""


def shown(*overrides: str) -> dict[str, Any]:
    return as_document(scenario_from(tomllib.loads(TEXT), overrides))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("load.rate=50", ("load", "rate"), 50.0),
        (" load.rate = 50 ", ("load", "rate"), 50.0),
        ("fleet.devices=7", ("fleet", "devices"), 7),
        ("phase.patch.rate=50", ("phase", 1, "rate"), 50.0),
        ("phase.1.rate=50", ("phase", 1, "rate"), 50.0),
        ("phase.enroll.share=0.5", ("phase", 0, "share"), 0.5),
        ("phase.patch.kind=lom_setup", ("phase", 1, "kind"), "lom_setup"),
        ("name=two words", ("name",), "two words"),
        ('name="a = b"', ("name",), "a = b"),
        ("name=2024", ("name",), "2024"),
        ("fleet.seed=42", ("fleet", "seed"), "42"),
        ("fleet.seed='42'", ("fleet", "seed"), "42"),
        ("fleet.seed=", ("fleet", "seed"), ""),
        ("fleet.power.reset_while_off=boot", ("fleet", "power", "reset_while_off"), "boot"),
        ("fleet.not_now=1e-1", ("fleet", "not_now"), 0.1),
        ('limits=["enroll.errors == 0"]', ("limits",), ["enroll.errors == 0"]),
        ("fleet={devices = 3}", ("fleet", "devices"), 3),
        ("phase.patch.request.RequestType=ProfileList", ("phase", 1, "request", "RequestType"), "ProfileList"),
        ('phase=[{kind = "enroll", name = "only"}]', ("phase", 0, "name"), "only"),
    ],
)
def test_an_override_replaces_one_value(override: str, path: tuple[str | int, ...], value: object) -> None:
    found: Any = shown(override)
    for step in path:
        found = found[step]
    assert found == value


def test_last_override_wins_and_the_input_is_unchanged() -> None:
    document = tomllib.loads(TEXT)
    scenario = scenario_from(document, ["fleet.devices=7", "fleet.devices=8"])
    assert scenario.fleet.devices == 8
    assert document == tomllib.loads(TEXT)


@pytest.mark.parametrize(
    ("override", "wording"),
    [
        ("load", "--set load: expected KEY=VALUE, such as load.rate=50"),
        ("=5", "expected KEY=VALUE"),
        ("load..rate=5", "expected KEY=VALUE"),
        ("laod.rate=5", 'a scenario has no key "laod"; did you mean "load"?'),
        ("load.rtae=5", 'load has no key "rtae"; did you mean "rate"?'),
        ("phase.patch.rtae=5", 'phase[1] ("patch") has no key "rtae"; did you mean "rate"?'),
        ("phase.patch.poll=5", 'has no key "poll": that is one of phases of kind idle'),
        ("phase.pach.rate=5", 'no phase is called "pach"; did you mean "patch"?'),
        ("phase.9.rate=5", 'no phase is called "9"; there are enroll, patch'),
        ("phase.patch=5", "this is a whole phase; name one of its keys"),
        ("load.rate=fast", 'load.rate: expected a number from 0.000001 to 1,000,000, found "fast"'),
        ("fleet.devices.x=5", "fleet.devices is not a table, so it has no keys"),
        ("fleet.devices=[", 'fleet.devices: expected a whole number from 1 to 10,000,000, found "["'),
        ("fleet.devices=1\nload.rate=5", "fleet.devices: expected a whole number"),
        ("phase.patch.kind=comand", 'found "comand"; did you mean "command"?'),
    ],
)
def test_invalid_override_is_refused(override: str, wording: str) -> None:
    with pytest.raises(OperatorError) as refused:
        shown(override)
    assert wording in str(refused.value)


def test_phases_of_one_name_are_selected_by_number() -> None:
    document = {"phase": [{"kind": "enroll"}, {"kind": "idle"}, {"kind": "idle"}]}
    with pytest.raises(OperatorError, match='2 phases are called "idle"; say which by its number'):
        scenario_from(document, ["phase.idle.seconds=5"])
    scenario = scenario_from(document, ["phase.2.name=later", "phase.2.seconds=5"])
    assert [phase.name for phase in scenario.phases] == ["enroll", "idle", "later"]


@given(
    st.text(max_size=30) | st.tuples(st.sampled_from(["fleet.seed=", "phase.", "load.rate="]), st.text()).map("".join)
)
def test_any_override_is_applied_or_refused(override: str) -> None:
    with suppress(OperatorError):
        shown(override)


def test_rules_are_added_to_those_of_the_file() -> None:
    document = tomllib.loads(TEXT + '[[rule]]\nid = "first"\non = "session"\ndo = "malformed"\n')
    added = (
        'id = "second", on = "command", do = "error", errors = [{ code = 1 }]',
        'on = "enroll", do = "slow", bytes_per_s = 9',
    )
    rules = scenario_from(document, (), added).rules
    assert [(rule.id, rule.on, rule.bytes_per_s) for rule in rules] == [
        ("first", "session", None), ("second", "command", None), ("", "enroll", 9.0),
    ]  # fmt: skip
    assert len(document["rule"]) == 1


@pytest.mark.parametrize("text", ["lose", 'on = "session"}\nname = "x"\nmore = {', "on = 'push', on = 'push'"])
def test_what_is_no_rule_is_told(text: str) -> None:
    with pytest.raises(OperatorError, match="expected the keys of a fault rule as an inline table of TOML") as caught:
        scenario_from(tomllib.loads(TEXT), (), [text])
    assert str(caught.value).startswith(f"the scenario: --rule {text}: ")
