"""The OpenAPI 3.1 document of the control API, made from `agent.service.api.routes` and the types."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from agent import __version__
from agent.service.api.problems import KINDS, MEDIA
from agent.service.api.queries import given_type
from agent.service.api.route_examples import BODIES, PROBLEM
from agent.service.api.routes import FLEET_TITLE, MAC, ROUTES, RUN_TITLE, Query, Route
from agent.service.types import Event, Problem

_ANY_REQUEST = (400, 401, 403, 500)
_REFERENCES = "#/components/schemas/{name}"
_PATH_PARAMETERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mac": (f"{MAC}.", {"type": "string"}),
    "rule": ("Id of a rule.", {"type": "string"}),
    "segment": ("Number of a segment.", {"type": "integer", "minimum": 0}),
}
_ADDED: Mapping[str, Mapping[str, str]] = {
    "add_macs": {"mac": "/0/udid", "segment": "/0/segment"},
    "add_rule": {"rule": "/id"},
}
"""Where the answer of a request has the path parameters of others, as JSON pointers."""
_WHAT: Mapping[str, str] = {
    FLEET_TITLE: "The fleet of `lom-agent serve`: simulated Macs that a test adds, enrolls, powers on and off, makes "
    "misbehave and asks for their exchanges.",
    RUN_TITLE: "A running scenario of `lom-agent run --control`: its progress, pauses and changed rates.",
}
_DESCRIPTION = """\
Every request but those for the page and for this document has the header `Authorization: Bearer TOKEN`. Bodies are \
JSON. Unknown keys and unknown query parameters are refused. A request that fails is answered with problem details \
(RFC 9457)."""
TAGS: Mapping[str, str] = {
    "service": "The service as a whole.",
    "macs": "The Macs.",
    "segments": "Subnets: the Macs that one LOM Controller reaches.",
    "rules": "Rules that make Macs misbehave.",
    "exchanges": "The messages of the Macs and the answers.",
    "events": "What happens, as a stream or one at a time.",
    "clock": "The clock of the Macs.",
    "run": "A running scenario.",
}
_TAG_OF = {"wait": "events", "v1": "service", "results": "service", "reset": "service", "metrics": "service"}


def openapi(routes: tuple[Route, ...] = ROUTES, title: str = FLEET_TITLE) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(path_template(route), {})[route.method.lower()] = _operation(route)
    paths["/metrics"] = {"get": _metrics()}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": f"{_WHAT[title]}\n\n{_DESCRIPTION}",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The service that serves this document."}],
        "security": [{"token": []}],
        "tags": [
            {"name": name, "description": text}
            for name, text in TAGS.items()
            if any(operation["tags"] == [name] for path in paths.values() for operation in path.values())
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of the service, which lom-agent makes at its start or reads from a file.",
                }
            },
            "responses": {_problem_name(status): _problem(status) for status in KINDS},
            "schemas": schemas(routes),
        },
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))  # defaults may be tuples
    return plain


@cache
def openapi_json(routes: tuple[Route, ...] = ROUTES, title: str = FLEET_TITLE) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(openapi(routes, title))


def path_template(route: Route) -> str:
    """The path of a route with its parameters in braces."""
    return route.path.replace("<", "{").replace(">", "}")


def schemas(routes: tuple[Route, ...] = ROUTES) -> dict[str, Any]:
    """The JSON schemas of all types, by name, with the descriptions of their fields."""
    types = [kind for route in routes for kind in (route.body, route.answer) if kind is not None]
    _, found = msgspec.json.schema_components([*types, Event, Problem], ref_template=_REFERENCES)
    structs = {each.__name__: each for each in _structs([*types, Event, Problem])}
    for name, schema in found.items():
        struct = structs[name]
        schema["description"] = _markdown(inspect.getdoc(struct) or "")
        for field, text in field_descriptions(struct).items():
            schema["properties"][field] = _described(schema["properties"][field], text)
        for described in schema["properties"].values():
            if "pattern" in described:
                described["pattern"] = _ecma_pattern(described["pattern"])
    return dict(sorted(found.items()))


def field_descriptions(struct: type[Struct]) -> dict[str, str]:
    """The strings that stand below the fields of a Struct and of those that it is derived from."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, Struct) and base is not Struct:
            found |= dict(_strings_below_fields(_classes(base.__module__)[base.__name__]))
    return found


@cache
def _classes(module: str) -> Mapping[str, list[ast.stmt]]:
    """The bodies of the classes of a module, by name."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _strings_below_fields(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, _markdown(inspect.cleandoc(below.value.value))


def _structs(kinds: Iterable[Any]) -> set[type[Struct]]:
    """The Structs among these types, and those in their fields."""
    found: set[type[Struct]] = set()
    left = list(kinds)
    while left:
        kind = left.pop()
        if isinstance(kind, type) and issubclass(kind, Struct):
            if kind not in found:
                found.add(kind)
                left += [field.type for field in msgspec.structs.fields(kind)]
        elif get_origin(kind) is not None:
            left += [each for each in get_args(kind) if not isinstance(each, str | int)]
    return found


def _markdown(text: str) -> str:
    """A docstring for readers of the document: a paragraph a line, Markdown's backticks, no Python errors."""
    return "\n\n".join(_sentences(" ".join(part.split())) for part in text.replace("``", "`").split("\n\n"))


def _sentences(text: str) -> str:
    kept = ". ".join(each for each in text.rstrip(".").split(". ") if not each.startswith("Raises "))
    return f"{kept}." if kept and text.endswith(".") else kept


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {**schema, "description": text}  # in OpenAPI 3.1 a reference may have a description too


def _ecma_pattern(pattern: str) -> str:
    """A pattern of Python in the dialect of JSON Schema, where ``$`` is the end of the text alone."""
    return pattern.replace(r"\A", "^").replace(r"\Z", "$")


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": _sentence(route.help),
        "description": route.help,
        "tags": [_tag(route.path)],
        "parameters": [*_path_parameters(route), *map(_query_parameter, route.query), *_header_parameters(route)],
        "responses": _responses(route),
    }
    if route.body is not None:
        example = BODIES[route.name]
        operation["requestBody"] = {
            "required": needs_body(route),
            "content": {"application/json": {"schema": _reference(route.body), "example": example}},
        }
    return {name: value for name, value in operation.items() if value != []}


def needs_body(route: Route) -> bool:
    """Whether an empty body, which stands for an object without keys, is refused."""
    return any(field.required for field in msgspec.structs.fields(route.body))


def _sentence(text: str) -> str:
    return text.partition(". ")[0].partition(": ")[0].rstrip(".")


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    name = parts[1] if len(parts) > 1 else parts[0]
    return _TAG_OF.get(name, name)


def _names_in_path(route: Route) -> list[str]:
    return [part[1:-1] for part in route.path.split("/") if part.startswith("<")]


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _names_in_path(route):
        text, schema = _PATH_PARAMETERS[name]
        yield {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _query_parameter(query: Query) -> dict[str, Any]:
    schema = msgspec.json.schema(given_type(query.kind))
    if query.default is not None:
        schema["default"] = query.default
    return {"name": query.name, "in": "query", "description": query.help, "schema": schema}


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    if route.media != "text/event-stream":
        return []
    return [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The number of the last event that the client got; in place of `after`.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        }
    ]


def _responses(route: Route) -> dict[str, Any]:
    if route.answer is None:
        responses: dict[str, Any] = {"204": {"description": "Done."}}
    else:
        content = {route.media: {"schema": _answer_schema(route)}}
        responses = {str(route.status): {"description": _answer_words(route), "content": content}}
        links = dict(_links(route))
        if links:
            responses[str(route.status)]["links"] = links
    problems = {*_ANY_REQUEST, *route.problems, *((413,) if route.body is not None else ())}
    for status in sorted(problems):
        responses[str(status)] = {"$ref": f"#/components/responses/{_problem_name(status)}"}
    return responses


def _links(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    """The requests about what a request added: the first Mac, its segment, the rule."""
    found = _ADDED.get(route.name, {})
    for other in ROUTES:
        for name in _names_in_path(other):
            if name in found:
                yield other.name, {"operationId": other.name, "parameters": {name: f"$response.body#{found[name]}"}}


def _answer_schema(route: Route) -> dict[str, Any]:
    if route.media == "text/event-stream":
        return {
            "type": "string",
            "description": "Blocks of `id` (the number of the event), `event` (its kind) and `data` (an Event as "
            "JSON), each with an empty line after it. Lines that start with a colon are comments.",
            "contentSchema": _reference(Event),
            "example": "id: 7\nevent: power\ndata: "
            '{"number":7,"at":1764340000.5,"kind":"power","text":"It boots.","udid":"","status":"booting"}\n\n',
        }
    if route.answer is bytes:
        return {"type": "string", "contentMediaType": route.media}
    return _reference(route.answer)


def _answer_words(route: Route) -> str:
    if route.media == "text/event-stream":
        return "Events, until the client or the service closes the connection."
    return {200: "The answer.", 201: "What was added."}[route.status]


def _reference(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCES)
    return schema


def _problem_name(status: int) -> str:
    return "".join(part.capitalize() for part in KINDS[status][0].split("-"))


def _problem(status: int) -> dict[str, Any]:
    kind, title = KINDS[status]
    example = {"type": f"urn:lom-agent:{kind}", "title": title, "status": status, "detail": PROBLEM[status]}
    return {"description": f"{title}.", "content": {MEDIA: {"schema": _reference(Problem), "example": example}}}


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "The metrics for Prometheus",
        "description": "The metrics for Prometheus, the same as those of a run. Its scrape configuration has the token "
        "as `authorization: {credentials: TOKEN}`.",
        "tags": ["service"],
        "responses": {
            "200": {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **{str(status): {"$ref": f"#/components/responses/{_problem_name(status)}"} for status in (401, 403, 500)},
        },
    }
