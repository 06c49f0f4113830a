"""A new scenario with every key: those at their defaults as comments, ready to run against the embedded lab."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from agent.faults.rules import Rule
from agent.scenario.keys import ARRAYS, Key, keys_of
from agent.scenario.types import PHASE_KINDS, ArrivingPhase, Change, FleetPart, PhaseBase, Scenario
from agent.scenario.writing.toml import toml

DEFAULT_KINDS = ("enroll", "command", "lom_setup", "lom")
_WIDTH = 100
_ROOT = {
    "name": "my-scenario",
    "limits": ["session.p99 < 2s", "session.errors == 0"],
}
_FLEET = {"devices": 100}
# The keys that phases set here, in the order of the phases; all other keys are comments.
_PHASES: dict[str, dict[str, Any]] = {
    "enroll": {"rate": 20.0},
    "checkin": {"rate": 20.0},
    "command": {"rate": 20.0, "request": {"RequestType": "ProfileList"}},
    "lom_setup": {"rate": 20.0},
    "lom": {"rate": 10.0},
    "power_cut": {"seconds": 5.0},
    "idle": {"seconds": 30.0},
}
_RULE = {"on": "command", "do": "not_now"}
_NEEDS = {"lom": "lom_setup"}
_HEAD = """\
# A scenario for lom-agent. Check it:  lom-agent scenario check FILE
#                           Run it:    lom-agent run FILE
# A line with "#" and a key shows the default of the key, or an example where it has no default.
# Times are in seconds, rates in operations per second for the whole fleet. docs/scenario.md has the rest.
"""


def template(kinds: Sequence[str] = DEFAULT_KINDS) -> str:
    """The text of a scenario with phases of these kinds, after the phases that they require."""
    lines = [_HEAD, *_table(Scenario, _ROOT)]
    for name, key in keys_of(Scenario).items():
        if key.table is not None:
            lines += [
                "",
                *_described(key.description),
                f"[{name}]",
                *_table(key.table, _FLEET if key.table is FleetPart else {}),
            ]
            lines += _inner_tables(name, key.table)
    for number, kind in enumerate(_with_needs(kinds)):
        table = PHASE_KINDS[kind]
        lines += ["", "", *_described((table.__doc__ or "").strip()), "[[phase]]", f'kind = "{kind}"']
        lines += _phase(table, _PHASES[kind], short=number > 0)
    lines += ["", "", *_described("Fault rules make some Macs misbehave; docs/faults.md describes them."), "#[[rule]]"]
    lines += [line if line.startswith("#") else f"#{line}" for line in _table(Rule, _RULE)]
    lines += ["", "", *_described("Changes of the running scenario: pauses and changed rates."), "#[[change]]"]
    lines += [line if line.startswith("#") else f"#{line}" for line in _table(Change, {})]
    return "\n".join(lines) + "\n"


def _with_needs(kinds: Sequence[str]) -> list[str]:
    wanted: list[str] = [] if "enroll" in kinds else ["enroll"]
    for kind in sorted(kinds, key=lambda kind: kind != "enroll"):
        need = _NEEDS.get(kind)
        if need is not None and need not in (*wanted, *kinds):
            wanted.append(need)
        if kind not in wanted:
            wanted.append(kind)
    return sorted(wanted, key=list(_PHASES).index)


def _table(table: type[Struct], given: dict[str, Any]) -> Iterator[str]:
    for name, key in keys_of(table).items():
        if key.table is None and name not in ARRAYS:
            yield from _line(key, given)


def _phase(table: type[PhaseBase], given: dict[str, Any], *, short: bool) -> Iterator[str]:
    """The keys of a phase; ``short``: without those that all phases have, which the first phase shows."""
    common = keys_of(ArrivingPhase)
    for name, key in keys_of(table).items():
        if not short or name in given or name not in common:
            yield from _line(key, given)


def _inner_tables(outer: str, table: type[Struct]) -> Iterator[str]:
    for name, key in keys_of(table).items():
        if key.table is None:
            continue
        path = f"{outer}.{name}"
        yield ""
        yield from _described(key.description)
        if key.default is None:
            yield f"#[{path}]"
            yield from (line if line.startswith("#") else f"#{line}" for line in _table(key.table, {}))
        else:
            yield f"[{path}]"
            yield from _table(key.table, {})
        yield from _inner_tables(path, key.table)


def _line(key: Key, given: dict[str, Any]) -> Iterator[str]:
    yield from _described(key.description)
    if key.name in given:
        yield f"{key.name} = {toml(given[key.name])}"
        return
    shown = key.default if key.default or key.example is None else key.example
    yield f"#{key.name} = {toml('' if shown is None else shown)}"


def _described(text: str) -> list[str]:
    return [f"# {line}" for part in text.split("\n\n") for line in textwrap.wrap(" ".join(part.split()), _WIDTH - 2)]
