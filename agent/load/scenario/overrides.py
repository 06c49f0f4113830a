"""Overrides: ``--set load.rate=50``, ``--set phase.patch.rate=50``, put into a document before it is read."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from agent.errors import OperatorError
from agent.load.scenario.complaints import nearest, unknown
from agent.load.scenario.keys import KIND, PHASE, Key, keys_of, phase_label, phase_table
from agent.load.scenario.types import Scenario

FORM = "KEY=VALUE, such as load.rate=50 or phase.patch.rate=50"


def overridden(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``document`` in which the overrides, one after another, replaced what they name.

    A value is read as TOML, and a word that is none is text. A phase is named by its name or its number from 0.
    Raises OperatorError for a key or a phase that does not exist, and for what is no override.
    """
    document = copy.deepcopy(document)
    for text in overrides:
        try:
            _override(document, text)
        except OperatorError as error:
            raise OperatorError(f"--set {text}: {error}") from error
    return document


def _override(document: dict[str, Any], text: str) -> None:
    dotted, equals, value = text.partition("=")
    path = dotted.strip().split(".")
    if not equals or not all(path):
        raise OperatorError(f"expected {FORM}")
    table: type[Struct] | None = Scenario
    values, where = document, ""
    if path[0] == PHASE and len(path) > 1:
        if len(path) < 3:
            raise OperatorError(f"this is a whole phase; name one of its keys, as in {PHASE}.{path[1]}.share=0.5")
        values, where = _phase(document, path[1])
        table = phase_table(values)
        path = path[2:]
    for step in path[:-1]:
        key = _known(where, step, table)
        table = None if key is None else key.table
        where = f"{where}.{step}".lstrip(".")
        values = _inner(values, step, where)
    key = _known(where, path[-1], table)
    values[path[-1]] = _value(value, text_only=key is not None and key.text_only)


def _known(where: str, step: str, table: type[Struct] | None) -> Key | None:
    """The key that a step names; None where no type says which there are, or for the kind of a phase."""
    if table is None or (step == KIND and table is not Scenario):
        return None
    key = keys_of(table).get(step)
    if key is None:
        raise OperatorError(unknown(where, step, table))
    return key


def _inner(values: dict[str, Any], step: str, where: str) -> dict[str, Any]:
    inner = values.setdefault(step, {})
    if not isinstance(inner, dict):
        raise OperatorError(f"{where} is no table, so it has no keys")
    return inner


def _phase(document: dict[str, Any], wanted: str) -> tuple[dict[str, Any], str]:
    phases = document.get(PHASE)
    phases = [phase for phase in phases if isinstance(phase, dict)] if isinstance(phases, list) else []
    names = [str(phase.get("name", phase.get(KIND))) for phase in phases]
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(phases):
        number = int(wanted)
    elif names.count(wanted) == 1:
        number = names.index(wanted)
    elif wanted in names:
        raise OperatorError(f'{names.count(wanted)} phases are called "{wanted}"; say which by its number, from 0')
    else:
        raise OperatorError(f'no phase is called "{wanted}"; {nearest(wanted, names) if names else "there is none"}')
    return phases[number], phase_label(number, phases[number])


def _value(text: str, *, text_only: bool) -> Any:
    try:
        read = tomllib.loads(f"value = {text.strip()}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = read.get("value") if len(read) == 1 else text
    return text if text_only and not isinstance(value, str) else value
