"""From a TOML file and overrides to a checked Scenario.

Derived values are filled in: names of phases, commands and replays from their files, whether a push gateway is opened.
File names in a scenario are relative to its folder.
"""

from __future__ import annotations

import contextlib
import copy
import math
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.errors import OperatorError
from agent.faults.rules import Rule
from agent.files import read_file
from agent.scenario.checks.changes import check_changes
from agent.scenario.checks.complaints import check_keys, complaint, nearest, unknown
from agent.scenario.checks.phases import checked_phases
from agent.scenario.checks.tables import checked_tables
from agent.scenario.keys import KIND, PHASE, RULE, Key, keys_of, phase_label, phase_table
from agent.scenario.types import Scenario

MAX_BYTES = 1024 * 1024


def read_scenario(path: str | Path, overrides: Sequence[str] = (), rules: Sequence[str] = ()) -> Scenario:
    """The scenario in a file, with ``--set`` and ``--rule`` applied. Raises OperatorError, which names file and key."""
    path = Path(path)
    return scenario_from(_document(path), overrides, rules, where=str(path), folder=path.parent)


def names_no_server(path: str | Path) -> bool:
    """Whether the scenario in a file uses the embedded lab unless an override changes that. Raises OperatorError."""
    server = _document(Path(path)).get("server", {})
    return isinstance(server, dict) and server.get("adapter", "lab") == "lab" and "lab" not in server


def _document(path: Path) -> dict[str, Any]:
    data = read_file(path, "the scenario", MAX_BYTES, advice="Put replays and commands in files.")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise OperatorError(f"the scenario {path} is not valid UTF-8, at byte {error.start}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OperatorError(f"the scenario {path} is not valid TOML: {error}") from error


def scenario_from(
    document: dict[str, Any],
    overrides: Sequence[str] = (),
    rules: Sequence[str] = (),
    *,
    where: str = "the scenario",
    folder: Path | None = None,
) -> Scenario:
    """The scenario in a document. Its files are relative to ``folder``; None: the working directory.

    Files in overrides are relative to the working directory. ``rules`` are fault rules to add, each the keys of an
    inline table of TOML. Raises OperatorError, which begins with ``where``.
    """
    try:
        if folder is not None:
            document = copy.deepcopy(document)
            _place_files(document, folder)
        document = _with_rules(overridden(document, overrides), rules)
        check_keys(document)
        _check_numbers(document, "")
        _check_rules(document)
        scenario = msgspec.convert(document, Scenario)
        return check_changes(checked_phases(checked_tables(scenario)))
    except msgspec.ValidationError as error:
        raise OperatorError(f"{where}: {complaint(error, document)}") from error
    except OperatorError as error:
        raise OperatorError(f"{where}: {error}") from error
    except RecursionError:
        raise OperatorError(f"{where} is nested too deeply") from None


def _with_rules(document: dict[str, Any], rules: Sequence[str]) -> dict[str, Any]:
    added = []
    for text in rules:
        try:
            read = tomllib.loads(f"{RULE} = {{{text}}}")
        except (tomllib.TOMLDecodeError, RecursionError):
            read = {}
        if len(read) != 1:
            raise OperatorError(
                f"--rule {text}: expected the keys of a fault rule as an inline table of TOML, such as "
                """'on = "push", do = "lose", share = 0.1'"""
            )
        added.append(read[RULE])
    before = document.get(RULE, [])
    return {**document, RULE: [*before, *added]} if added and isinstance(before, list) else document


def _check_rules(document: dict[str, Any]) -> None:
    """Refuse a rule whose keys contradict each other. Keys of a wrong type are left to the check of the whole."""
    rules = document.get(RULE)
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        try:
            with contextlib.suppress(msgspec.ValidationError):
                msgspec.convert(rule, Rule)
        except OperatorError as error:
            raise OperatorError(f"{RULE}[{number}]: {error}") from error


def _check_numbers(value: Any, path: str) -> None:
    """Refuse infinity and NaN, which TOML allows, also where any value is valid."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_numbers(inner, phase_label(number, inner) if path == PHASE else f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise OperatorError(f"{path}: expected a finite number, found {value}")


def placed(scenario: Scenario, folder: Path) -> Scenario:
    """The scenario with its file names relative to ``folder``; absolute ones stay."""
    document = msgspec.json.decode(msgspec.json.encode(scenario))
    _place_files(document, folder)
    return msgspec.convert(document, Scenario)


def _place_files(document: dict[str, Any], folder: Path) -> None:
    for table, values in _tables(document):
        for name, key in keys_of(table).items():
            value = values.get(name)
            if key.path and isinstance(value, str):
                values[name] = _placed(value, folder)
            elif key.path and isinstance(value, list):
                values[name] = [_placed(each, folder) if isinstance(each, str) else each for each in value]


def _placed(name: str, folder: Path) -> str:
    return name if "://" in name or not name else str(folder / name)


def _tables(document: dict[str, Any]) -> Iterator[tuple[type[Struct], dict[str, Any]]]:
    waiting: list[tuple[type[Struct], dict[str, Any]]] = [(Scenario, document)]
    phases = document.get(PHASE)
    for phase in phases if isinstance(phases, list) else ():
        kind = phase_table(phase)
        if kind is not None:
            waiting.append((kind, phase))
    while waiting:
        table, values = waiting.pop()
        yield table, values
        for name, key in keys_of(table).items():
            if key.table is not None and isinstance(inner := values.get(name), dict):
                waiting.append((key.table, inner))


FORM = "KEY=VALUE, such as load.rate=50 or phase.patch.rate=50"


def overridden(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``document`` with the overrides applied in order.

    A value is read as TOML, else as text. A phase is named by its name or its number from 0. Raises OperatorError for
    an unknown key or phase, and for text that is not an override.
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
    """The key that a step names; None in a table without fixed keys, and for the kind of a phase."""
    if table is None or (step == KIND and table is not Scenario):
        return None
    key = keys_of(table).get(step)
    if key is None:
        raise OperatorError(unknown(where, step, table))
    return key


def _inner(values: dict[str, Any], step: str, where: str) -> dict[str, Any]:
    inner = values.setdefault(step, {})
    if not isinstance(inner, dict):
        raise OperatorError(f"{where} is not a table, so it has no keys")
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
