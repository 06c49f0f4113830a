"""The query and the body of a request, converted to the types that its route declares."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from agent.service.api.problems import RequestFailed
from agent.service.api.routes import Query, Route

MAX_FIELDS = 32  # of a query; ours
MAX_INTEGER = 2**53  # a floating-point number up to it is exact


def query_values(route: Route, query: bytes) -> dict[str, Any]:
    """The value of each query parameter. Raises RequestFailed for an unknown, repeated or wrong one."""
    declared = {each.name: each for each in route.query}
    values = {each.name: each.default for each in route.query}
    given: set[str] = set()
    for name, text in _pairs(query):
        if name not in declared:
            raise RequestFailed(400, f"Expected {_names(declared)}, found the query parameter {name[:100]!r}.")
        if name in given:
            raise RequestFailed(400, f"Expected each query parameter once, found {name} twice. Remove one.")
        given.add(name)
        values[name] = _converted(declared[name], text)
    return values


def body_value(route: Route, octets: bytes) -> Any:
    """The body; an empty one is an object without keys.

    Raises RequestFailed, msgspec's errors, OperatorError and RecursionError.
    """
    try:
        return _from_json(octets or b"{}", route.body)
    except UnicodeDecodeError as error:
        raise RequestFailed(400, f"Expected a body in UTF-8, found {error}. Encode it as UTF-8.") from error


def given_type(kind: Any) -> Any:
    """The type of a parameter where it is given: without None, which stands for a missing one."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return Union[tuple(each for each in get_args(kind) if each is not NoneType)]  # noqa: UP007 - made at run time


def is_text(kind: Any) -> bool:
    """Whether values of this type are JSON strings."""
    return bool(msgspec.json.schema(kind).get("type", "string") == "string")


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:  # UnicodeError too
        raise RequestFailed(
            400, f"Expected a query of at most {MAX_FIELDS} NAME=VALUE in percent-encoded UTF-8, found none ({error})."
        ) from error


def _converted(query: Query, text: str) -> Any:
    kind = given_type(query.kind)
    try:
        if is_text(kind):
            return msgspec.convert(text, kind)
        return _from_json(text, kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise RequestFailed(400, f"{error}, in the query parameter {query.name} = {text[:100]!r}.") from error


def _from_json(text: bytes | str, kind: Any) -> Any:
    """A value of this type. A number such as 2.0 is an integer, as in JSON Schema."""
    return msgspec.convert(_with_integers(msgspec.json.decode(text)), kind)


def _with_integers(value: Any) -> Any:
    match value:
        case float() if abs(value) <= MAX_INTEGER and value.is_integer():
            return int(value)
        case dict():
            return {key: _with_integers(each) for key, each in value.items()}
        case list():
            return [_with_integers(each) for each in value]
    return value


def _names(declared: Iterable[str]) -> str:
    return " or ".join(declared) or "no query"
