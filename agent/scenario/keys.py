"""The types of a scenario as a tree of keys: name, type, help text and default of each.

For error messages, overrides, the reference, new scenarios and the options of ``lom-agent run``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct, inspect

from agent.scenario.types import PHASE_KINDS, PhaseBase, Scenario

PHASE = "phase"
RULE = "rule"
CHANGE = "change"
ARRAYS = (PHASE, RULE, CHANGE)  # arrays of tables
KIND = "kind"


class Key(msgspec.Struct, frozen=True):
    """One key."""

    name: str
    takes: inspect.Type
    """Its type, as msgspec describes it."""
    description: str
    """Its help text, in Markdown."""
    unit: str
    path: bool
    """Whether the value is one file name or several."""
    required: bool
    """Whether it has no default."""
    default: Any
    """As plain data; None without a default."""
    example: Any
    """A value to show where the default is none."""
    table: type[Struct] | None
    """The Struct of a table; None for any other type."""

    @property
    def words(self) -> str:
        """Its type, in words."""
        return words(self.takes)

    @property
    def text_only(self) -> bool:
        """Whether only text is valid."""
        return isinstance(bare(self.takes), inspect.StrType | inspect.LiteralType)


@cache
def keys_of(table: type[Struct]) -> dict[str, Key]:
    """The keys of a table by name, in the order of the reference."""
    seen = inspect.type_info(table)
    if not isinstance(seen, inspect.StructType):
        raise TypeError(f"{table} is not a Struct")
    fields = seen.fields
    base = table.__bases__[0]
    if base is not Struct and not base.__module__.startswith(f"{__package__}."):
        own = table.__annotations__  # first: the inherited ones are settings of another module
        fields = tuple(sorted(fields, key=lambda field: field.name not in own))
    return {field.encode_name: _key(field) for field in fields}


def own_keys(kind: type[PhaseBase]) -> dict[str, Key]:
    """The keys of a kind of phase without those of its base class."""
    base = kind.__mro__[1]
    inherited = keys_of(base) if issubclass(base, Struct) else {}
    return {name: key for name, key in keys_of(kind).items() if name not in inherited}


def tables() -> Iterator[tuple[str, type[Struct]]]:
    """Every table except phases with its dotted name, outer tables first; the name of the root is empty."""
    waiting: list[tuple[str, type[Struct]]] = [("", Scenario)]
    while waiting:
        name, table = waiting.pop(0)
        yield name, table
        inner = [(f"{name}.{key.name}".lstrip("."), key.table) for key in keys_of(table).values() if key.table]
        waiting = inner + waiting


def phase_table(document: object) -> type[PhaseBase] | None:
    """The type of a phase in a document; None for an unknown kind."""
    kind = document.get(KIND) if isinstance(document, dict) else None
    return PHASE_KINDS.get(kind) if isinstance(kind, str) else None


def phase_label(number: int, document: object) -> str:
    """The name of a phase in messages: ``phase[2] ("patch")``."""
    name = document.get("name") or document.get(KIND) if isinstance(document, dict) else None
    return f'phase[{number}] ("{name}")' if isinstance(name, str) and len(name) <= 64 else f"phase[{number}]"


def bare(takes: inspect.Type) -> inspect.Type:
    """A type without its description, and without the None of an optional key."""
    while True:
        if isinstance(takes, inspect.Metadata):
            takes = takes.type
        elif isinstance(takes, inspect.UnionType) and not takes.includes_none:
            return takes
        elif isinstance(takes, inspect.UnionType):
            others = [each for each in takes.types if not isinstance(each, inspect.NoneType)]
            if len(others) > 1:
                return takes
            takes = others[0]
        else:
            return takes


def within(takes: inspect.Type, step: str | int | None) -> inspect.Type | None:
    """The type of an element: of a key, of an index, or (None) of any key of a table without fixed keys."""
    takes = bare(takes)
    match takes:
        case inspect.StructType() if isinstance(step, str):
            return next((field.type for field in takes.fields if field.encode_name == step), None)
        case inspect.VarTupleType():
            return takes.item_type
        case inspect.TupleType() if isinstance(step, int) and step < len(takes.item_types):
            return takes.item_types[step]
        case inspect.DictType():
            return takes.value_type
        case inspect.UnionType():
            fitting = inspect.DictType if step is None else inspect.VarTupleType
            return next((within(each, step) for each in takes.types if isinstance(each, fitting)), None)
    return None


def words(takes: inspect.Type) -> str:
    """A type in words, with its bounds."""
    takes = bare(takes)
    match takes:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(takes, inspect.IntType) else "a number"
            return f"{noun}{_bounds(takes)}"
        case inspect.StrType():
            if takes.pattern is not None:
                return "text that begins with a letter, of letters, digits, - and _, at most 64"
            return "text" if takes.max_length is None else f"text of at most {takes.max_length:,} characters"
        case inspect.LiteralType():
            return _any_of([f'"{value}"' for value in takes.values])
        case inspect.VarTupleType():
            most = "" if takes.max_length is None else f" of at most {takes.max_length:,}"
            inner = words(takes.item_type)
            return f"a list of texts{most}" if inner == "text" else f"a list{most}, each {inner}"
        case inspect.UnionType():
            return _any_of([words(each) for each in takes.types if not isinstance(each, inspect.NoneType)])
        case inspect.TupleType():
            return f"[{', '.join(words(each) for each in takes.item_types)}]"
    return "a table"


def found(value: object) -> str:
    """A value as messages show it: as in the file, but shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:57]}…"
        return msgspec.json.encode(shown).decode()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _key(field: inspect.Field) -> Key:
    message = field.type if isinstance(field.type, inspect.Metadata) else inspect.Metadata(field.type)
    extra = message.extra or {}
    table = bare(field.type)
    return Key(
        name=field.encode_name,
        takes=field.type,
        description=(message.extra_json_schema or {}).get("description", ""),
        unit=extra.get("unit", ""),
        path=extra.get("path", False),
        required=field.required,
        default=_default(field),
        example=extra.get("example"),
        table=table.cls if isinstance(table, inspect.StructType) else None,
    )


def _default(field: inspect.Field) -> Any:
    if field.default is not NODEFAULT:
        return msgspec.to_builtins(field.default)
    return None if field.default_factory is NODEFAULT else msgspec.to_builtins(field.default_factory())


def _bounds(number: inspect.IntType | inspect.FloatType) -> str:
    least, most = number.ge, number.le
    if number.gt is not None:
        return f" above {_plain(number.gt)}" + ("" if most is None else f", at most {_plain(most)}")
    if least is not None:
        return f", {_plain(least)} or more" if most is None else f" from {_plain(least)} to {_plain(most)}"
    return ""


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:,.6f}".rstrip("0").rstrip(".")


def _any_of(words_: Sequence[str]) -> str:
    return " or ".join([", ".join(words_[:-1]), words_[-1]] if len(words_) > 1 else words_)
