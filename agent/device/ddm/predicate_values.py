"""The values of predicates: what a predicate is about, and the comparisons, as NSPredicate makes them.

All predicates of a Mac together take at most MAX_STEPS steps.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

MAX_STEPS = 200_000  # our limit
_STEP = 256  # characters that are compared or read in one step

Value = Any


class Unevaluable(Exception):
    """A predicate that cannot be evaluated here: it names a status item that this Mac does not have."""


class EvaluationFailed(Exception):
    """An evaluation that fails: values that cannot be compared, or more than MAX_STEPS steps."""


class Facts(msgspec.Struct):
    """What a predicate is about. ``status`` returns the value of a status item, or raises KeyError."""

    status: Callable[[str], Value]
    properties: Mapping[str, Value]
    variables: dict[str, Value] = msgspec.field(default_factory=dict)
    steps: int = 0

    def step(self, count: int = 1) -> None:
        """Count steps. Raises EvaluationFailed."""
        self.steps = min(self.steps + count, MAX_STEPS + 1)
        if self.steps > MAX_STEPS:
            raise EvaluationFailed(f"the evaluation takes more than {MAX_STEPS} steps")

    def read(self, value: Value) -> None:
        """Count the steps that it takes to compare this value. Raises EvaluationFailed."""
        level = [value]
        while level:
            self.step(sum(1 + len(each) // _STEP for each in level if isinstance(each, (str, list, dict))))
            level = [inner for each in level if isinstance(each, (list, dict)) for inner in _contents(each)]


def _contents(value: list[Value] | dict[str, Value]) -> Iterable[Value]:
    return value.values() if isinstance(value, dict) else value


def items_of(value: Value) -> list[Value]:
    """The items of a collection; none of nil. Raises EvaluationFailed for another value."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise EvaluationFailed("a value is not a collection")
    return value


def value_of_key(value: Value, key: str, facts: Facts) -> Value:
    """The value of a dictionary's key, or of that of each item of a collection; nil where there is none."""
    if isinstance(value, list):
        facts.step(len(value))
        return [each.get(key) if isinstance(each, dict) else None for each in value]
    return value.get(key) if isinstance(value, dict) else None


def comparison(operator: str, options: str) -> Callable[[Facts, Value, Value], bool]:
    """The comparison of two values with this operator and these options; it raises EvaluationFailed."""

    def compare(facts: Facts, left: Value, right: Value) -> bool:
        facts.step()
        facts.read(left)
        facts.read(right)
        return _compare(facts, operator, _folded(left, options), _folded(right, options))

    return compare


def _compare(facts: Facts, operator: str, left: Value, right: Value) -> bool:
    match operator:
        case "==":
            return _equal(left, right)
        case "!=":
            return not _equal(left, right)
        case "IN" | "CONTAINS":
            inside, whole = (left, right) if operator == "IN" else (right, left)
            if isinstance(inside, str) and isinstance(whole, str):
                return inside in whole
            facts.step(len(items_of(whole)))
            return any(_equal(inside, each) for each in items_of(whole))
        case "BETWEEN":
            bounds = items_of(right)
            if len(bounds) != 2:
                raise EvaluationFailed("BETWEEN needs two bounds")
            return _ordered("<=", bounds[0], left) and _ordered("<=", left, bounds[1])
        case "BEGINSWITH" | "ENDSWITH" | "LIKE":
            if left is None or right is None:
                return False
            if not isinstance(left, str) or not isinstance(right, str):
                raise EvaluationFailed(f"{operator} compares strings")
            if operator == "LIKE":
                return _is_like(facts, left, right)
            return left.startswith(right) if operator == "BEGINSWITH" else left.endswith(right)
    return _ordered(operator, left, right)


def _equal(left: Value, right: Value) -> bool:
    return bool(left == right)


def _ordered(operator: str, left: Value, right: Value) -> bool:
    if left is None or right is None:
        return False
    if isinstance(left, str) is not isinstance(right, str) or not isinstance(left, (str, int, float)):
        raise EvaluationFailed("a number and something else cannot be compared")
    if not isinstance(right, (str, int, float)):
        raise EvaluationFailed("a number and something else cannot be compared")
    before, same = left < right, left == right  # type: ignore[operator]
    return bool({"<": before, "<=": before or same, ">": not before and not same, ">=": not before}[operator])


def _is_like(facts: Facts, text: str, pattern: str) -> bool:
    """Whether the whole text matches a pattern of ``*`` and ``?``. Goes back to the last ``*`` only."""
    place = at = 0
    star, resumed = -1, 0
    while place < len(text):
        facts.step()
        if at < len(pattern) and pattern[at] != "*" and pattern[at] in (text[place], "?"):
            place, at = place + 1, at + 1
        elif at < len(pattern) and pattern[at] == "*":
            star, resumed, at = at, place, at + 1
        elif star >= 0:
            resumed += 1
            place, at = resumed, star + 1
        else:
            return False
    return not pattern[at:].strip("*")


def _folded(value: Value, options: str) -> Value:
    if not options or not isinstance(value, str):
        return [_folded(each, options) for each in value] if options and isinstance(value, list) else value
    if "d" in options:
        value = "".join(each for each in unicodedata.normalize("NFD", value) if not unicodedata.combining(each))
    return value.casefold() if "c" in options else value
