"""Makes docs/control-api.md from the OpenAPI document: ``python -m agent.service.api.reference > FILE``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from agent.service.api.event_kinds import EVENT_KINDS
from agent.service.api.openapi import TAGS, openapi
from agent.service.api.problems import KINDS

_OPENING = """\
# Control API

`lom-agent serve` is controlled by HTTP and JSON:

```sh
lom-agent serve --devices 3 --lab --ready-file ready.json &
until [ -f ready.json ]; do sleep 0.1; done
url=$(python3 -c 'import json; print(json.load(open("ready.json"))["control"])')
token=$(python3 -c 'import json; print(json.load(open("ready.json"))["token"])')
curl -sS -H "Authorization: Bearer $token" "$url/v1/macs"
```

[The plugin for pytest and the Python library](testing.md) use the same requests.

- Each request has the header `Authorization: Bearer TOKEN`. The page at `/` and `/openapi.json` need no token.
- The `Host` of a request is the address on which the service listens, `localhost`, `127.0.0.1` or `[::1]`. A service
  that listens on every address (`--control 0.0.0.0:7780`) also accepts any address and any name without a dot, such as
  that of a container.
- Bodies are JSON, at most 4 MiB. Unknown keys and unknown query parameters are refused. An empty body is `{}`.
- Bytes are base64, times are seconds since the epoch.
- `{mac}` is the UDID, the serial number or the number of a Mac. `/` in a parameter cannot be given.
- `GET /openapi.json` is this page for programs: OpenAPI 3.1, from which clients can be generated.
- No other origin may read the answers in a browser (no CORS).
"""

_PROBLEMS = """\
## Problems

A request that fails is answered with `application/problem+json` (RFC 9457): `type`, `title`, `status` and `detail`,
which says what was expected, what was found and what to do. A wait that failed also has the `nearest` events, and what
concerns a Mac its last `exchanges`.

```json
{example}
```
"""

_STREAM = """\
## Events

`GET /v1/events` is a stream of [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html).
Each has the number of the event as `id`, its kind as `event` and the [event](#event) as `data`. The numbers only grow,
also over a reset, so `Last-Event-ID` or `after` continue where a connection was lost. The service keeps the last 10,000
events; a comment says how many are missing. A client that is further behind is disconnected. A comment comes every
15 seconds.

| kind | meaning | has | keys of `data` |
| --- | --- | --- | --- |
"""

_END = """\
## About this page

It is generated from the types of the program: `python -m agent.service.api.reference > docs/control-api.md`.
"""

_PATH_EXAMPLES = {"mac": "0", "segment": "0", "rule": "rule-1"}


def document() -> str:
    """The whole page, in Markdown."""
    api = openapi()
    schemas = api["components"]["schemas"]
    parts = [_OPENING]
    for tag, text in TAGS.items():
        parts.append(f"## Requests: {tag}\n\n{text}\n")
        parts += [
            _operation(method, path, operation)
            for path, methods in api["paths"].items()
            for method, operation in methods.items()
            if operation["tags"] == [tag]
        ]
    kinds = "".join(f"| `{kind}` | {' | '.join(words)} |\n" for kind, words in EVENT_KINDS.items())
    parts += [_STREAM + kinds, _problems(api), "## Types\n"]
    parts += [_type(name, schema) for name, schema in schemas.items()]
    return "\n".join([*parts, _END])


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### {method.upper()} {path}", "", operation["description"], ""]
    parameters = [each for each in operation.get("parameters", ()) if each["in"] != "path"]
    if parameters:
        lines += ["| parameter | takes | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{each['name']}`{' (header)' if each['in'] == 'header' else ''} | {_words(each['schema'])} | "
            f"{_default(each['schema'])} | {each['description']} |"
            for each in parameters
        ]
        lines.append("")
    lines += ["```sh", curl(method, path, operation), "```", ""]
    if "requestBody" in operation:
        body = operation["requestBody"]
        optional = "" if body["required"] else ", which may be missing"
        lines.append(f"Takes {_words(body['content']['application/json']['schema'])}{optional}.")
    return "\n".join([*lines, *_answers(operation["responses"])]) + "\n"


def _answers(responses: Mapping[str, Any]) -> Iterator[str]:
    success = next(status for status in responses if status.startswith("2"))
    content = responses[success].get("content")
    if content is None:
        yield f"Returns {success} without a body."
    else:
        media, described = next(iter(content.items()))
        words = _words(described["schema"]) if media == "application/json" else f"`{media}`"
        yield f"Returns {success} with {words}."
    # Each request may be answered with these; the section on problems has them.
    others = [status for status in responses if status not in (success, "400", "401", "403", "413", "500")]
    if others:
        yield "Fails with " + ", ".join(f"{status} (`{KINDS[int(status)][0]}`)" for status in others) + "."


def curl(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """The request in a shell; ``$url`` and ``$token`` are those of the opening."""
    for name, value in _PATH_EXAMPLES.items():
        path = path.replace(f"{{{name}}}", value)
    words = ["curl", "-sS", "-H", '"Authorization: Bearer $token"']
    content = operation["responses"].get("200", {}).get("content", {})
    if "text/event-stream" in content:
        words.append("-N")
    if method != "get":
        words += ["-X", method.upper()]
    words.append(f'"$url{path}"')
    if "requestBody" in operation:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        words += ["\\\n  -d", shlex.quote(json.dumps(example))]
    return " ".join(words)


def _problems(api: Mapping[str, Any]) -> str:
    responses = api["components"]["responses"].values()
    problems = [each["content"]["application/problem+json"]["example"] for each in responses]
    lines = _head("status", "`type`", "meaning")
    lines += [f"| {each['status']} | `{each['type']}` | {each['title']}. |" for each in problems]
    return _PROBLEMS.replace("{example}", json.dumps(problems[3], indent=2)) + "\n" + "\n".join(lines) + "\n"


def _type(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    lines = [f"### {name}", "", schema["description"], "", *_head("key", "type", "default", "meaning")]
    for field, described in schema["properties"].items():
        default = "required" if field in required else _default(described)
        meaning = " ".join(described.get("description", "").split())
        lines.append(f"| `{field}` | {_words(described)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _head(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def _words(schema: Mapping[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"a list of {_words(schema.get('items', {}))}"
    if schema.get("contentEncoding") == "base64":
        return "base64"
    return {"string": "text", "boolean": "true or false"}.get(kind, kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    low, above, high = (_whole(schema.get(name)) for name in ("minimum", "exclusiveMinimum", "maximum"))
    words = [f"from {low:,}"] if low is not None else [f"above {above:,}"] if above is not None else []
    if high is not None and high < 2**63 - 1:
        words.append(f"to {high:,}" if words else f"at most {high:,}")
    return "".join(f" {word}" for word in words)


def _whole(number: float | None) -> float | None:
    """An integer where it is one: 600 in place of 600.0."""
    return number if number is None or number != int(number) else int(number)


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, "", [], {}) else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    sys.stdout.write(document())
