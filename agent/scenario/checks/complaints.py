"""Errors in the keys of a scenario: the dotted path of the key, the expected value, the value found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from msgspec import Struct, ValidationError, inspect

from agent.errors import OperatorError
from agent.faults.rules import Rule
from agent.scenario.keys import (
    ARRAYS,
    CHANGE,
    KIND,
    PHASE,
    RULE,
    bare,
    found,
    keys_of,
    phase_label,
    phase_table,
    within,
    words,
)
from agent.scenario.types import PHASE_KINDS, Change, Scenario

_STEP = re.compile(r"\.(?P<key>\w+)|\[(?P<number>\d+)\]|(?P<any>\[\.\.\.\])")
GATEWAY_RULES = (
    'write each as a fault rule with on = "push" (docs/faults.md): do = "refuse" with reason and probability, '
    '"drop" for break, "throttle" with limit and seconds, "away" with after and until, "store" with until for offline; '
    "times instead of first, for each Mac"
)
_REPLACED = {("push", "rules"): f"push.rules is not a key any more; {GATEWAY_RULES}"}
_LACKS = re.compile(r"Object missing required field `(\w+)`")


def check_keys(document: dict[str, Any]) -> None:
    """Reject unknown keys with a suggestion. Raises OperatorError."""
    for path, table, keys in _tables_in(document):
        for key in keys:
            if key not in keys_of(table) and not (key == KIND and table in PHASE_KINDS.values()):
                raise OperatorError(unknown(path, key, table))


def unknown(path: str, key: str, table: type[Struct]) -> str:
    """The message for an unknown key of the table at ``path``."""
    if (path, key) in _REPLACED:
        return _REPLACED[path, key]
    whole = path or "a scenario"
    elsewhere = [kind for kind, other in PHASE_KINDS.items() if key in keys_of(other)]
    if table in PHASE_KINDS.values() and elsewhere:
        return f'{whole} has no key "{key}": that is one of phases of kind {", ".join(elsewhere)}'
    return f"{whole} has no key {found(key)}; {nearest(key, keys_of(table))}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion: the most similar known word, or all known words."""
    known = list(known)
    near = get_close_matches(word, known, 1)
    return f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known)}"


def complaint(error: ValidationError, document: dict[str, Any]) -> OperatorError:
    """A ValidationError of msgspec as an error that names key, expected value and value found."""
    message, _, place = str(error).rpartition(" - at `$")
    if not place:
        message = str(error)
    steps = list(_steps(place.removesuffix("`")))
    takes = _type_at(document, steps)
    value, label = _follow(document, steps, takes)
    lacks = _LACKS.match(message)
    if lacks is not None:
        return OperatorError(f'{label or "a scenario"} lacks the key "{lacks[1]}"{_kinds(lacks[1])}')
    if len(steps) == 1 and steps[0] in ARRAYS:
        name = steps[0]
        return OperatorError(f"{name}: expected tables, each under [[{name}]] in two brackets, found {found(value)}")
    if steps[:1] and steps[0] in ARRAYS and len(steps) == 2:
        return OperatorError(f"{label}: expected a table, found {found(value)}")
    if steps and steps[-1] == KIND:
        near = f"; {nearest(value, PHASE_KINDS)}" if isinstance(value, str) else ""
        return OperatorError(f"{label}: expected one of {', '.join(PHASE_KINDS)}, found {found(value)}{near}")
    expected = message if takes is None else words(takes)
    near = ""
    if takes is not None and isinstance(value, str) and isinstance(literal := bare(takes), inspect.LiteralType):
        matches = get_close_matches(value, [str(each) for each in literal.values], 1)
        near = f'; did you mean "{matches[0]}"?' if matches else ""
    return OperatorError(f"{label}: expected {expected}, found {found(value)}{near}")


def _kinds(key: str) -> str:
    return f": one of {', '.join(PHASE_KINDS)}" if key == KIND else ""


def _tables_in(document: dict[str, Any]) -> Iterator[tuple[str, type[Struct], dict[str, Any]]]:
    """Every table of a document that has a type, with its path as messages show it."""
    waiting: list[tuple[str, type[Struct], dict[str, Any]]] = [("", Scenario, document)]
    while waiting:
        path, table, values = waiting.pop(0)
        yield path, table, values
        for name, key in keys_of(table).items():
            value = values.get(name)
            if key.table is not None and isinstance(value, dict):
                waiting.append((f"{path}.{name}".lstrip("."), key.table, value))
    phases = document.get(PHASE)
    for number, phase in enumerate(phases if isinstance(phases, list) else ()):
        kind = phase_table(phase)
        if kind is not None:
            yield phase_label(number, phase), kind, phase
    structs: tuple[tuple[str, type[Struct]], ...] = ((RULE, Rule), (CHANGE, Change))
    for name, struct in structs:
        found_tables = document.get(name)
        for number, each in enumerate(found_tables if isinstance(found_tables, list) else ()):
            if isinstance(each, dict):
                yield f"{name}[{number}]", struct, each


def _steps(place: str) -> Iterator[str | int | None]:
    for step in _STEP.finditer(place):
        yield step["key"] if step["key"] else int(step["number"]) if step["number"] else None


def _follow(document: Any, steps: list[str | int | None], takes: inspect.Type | None) -> tuple[Any, str]:
    """The value at the end of the steps, which should be of type ``takes``, and the path as messages show it."""
    right = {int, float} if isinstance(takes, inspect.FloatType) else {str}
    value, label = document, ""
    for place, step in enumerate(steps):
        if isinstance(step, int):
            value = value[step]
            label = phase_label(step, value) if steps[:place] == [PHASE] else f"{label}[{step}]"
        elif step is None:
            wrong = [(key, each) for key, each in value.items() if type(each) not in right] or [("", value)]
            key, value = wrong[0]
            label = f"{label}.{key}"
        else:
            value = value.get(step)
            label = f"{label}.{step}".lstrip(".")
    return value, label


def _type_at(document: dict[str, Any], steps: list[str | int | None]) -> inspect.Type | None:
    takes: inspect.Type | None
    if steps[:1] == [PHASE] and len(steps) > 1 and isinstance(number := steps[1], int):
        table = phase_table(document[PHASE][number])
        if table is None:
            return None
        takes, steps = inspect.type_info(table), steps[2:]
    else:
        takes = inspect.type_info(Scenario)
    for step in steps:
        takes = None if takes is None else within(takes, step)
    return takes
