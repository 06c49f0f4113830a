"""The nested settings of a results document as lines of a name and a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.report.numbers import NOTHING


def flattened(plain: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A nested dict as (name, value) lines: ``fleet.devices``, ``phase.2.rate``; a value as text."""
    lines: list[tuple[str, str]] = []
    waiting: list[tuple[str, Any]] = [(str(key), value) for key, value in reversed(list(plain.items()))]
    while waiting:
        name, value = waiting.pop()
        inner = _inner(value)
        if inner is None:
            lines.append((name, _text(value)))
        else:
            waiting += [(f"{name}.{key}", each) for key, each in reversed(inner)]
    return lines


def _inner(value: Any) -> list[tuple[Any, Any]] | None:
    """The items of a dict that is not empty, and of a list that has a dict; None for other values."""
    if isinstance(value, Mapping) and value:
        return list(value.items())
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return list(enumerate(value, 1))
    return None


def _text(value: Any) -> str:
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case []:
            return "none"
        case list():
            return ", ".join(str(each) for each in value)
        case {}:
            return "none"
        case _:
            return str(value)
