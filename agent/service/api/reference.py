"""Makes docs/control-api.md and docs/run-api.md from the OpenAPI documents.

``python -m agent.service.api.reference > docs/control-api.md``, and the same with the argument ``run``.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from agent.service.api.event_kinds import EVENT_KINDS
from agent.service.api.openapi import TAGS, openapi
from agent.service.api.problems import KINDS
from agent.service.api.routes import RUN_TITLE
from agent.service.api.run_routes import RUN_ROUTES

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

_RUN_OPENING = """\
# Control API of a run

`lom-agent run --control` serves an API that pauses and resumes the run, changes the rates of its phases, and stops it.
[load.md](load.md#changing-a-run) says what a change does, and what the results say of it.

```sh
lom-agent run patch-morning.toml --out first --control 127.0.0.1:0 --ready-file run.json &
until [ -f run.json ]; do sleep 0.1; done
url=$(python3 -c 'import json; print(json.load(open("run.json"))["control"])')
token=$(python3 -c 'import json; print(json.load(open("run.json"))["token"])')
curl -sS -H "Authorization: Bearer $token" -X POST "$url/v1/run/pause"
```

- Each request has the header `Authorization: Bearer TOKEN`; `/openapi.json` needs no token.
- The `Host` of a request is the address on which the run listens, `localhost`, `127.0.0.1` or `[::1]`.
- Bodies are JSON. Unknown keys and unknown query parameters are refused.
- A change is refused (409) before every worker is ready, a pause of a paused run, and a resume of one that is not
  paused. A run has at most 1,000 changes.
- `GET /openapi.json` is this page for programs: OpenAPI 3.1. `agent.client.Run` is a client for Python
  ([load.md](load.md#changing-a-run)).
"""

_RUN_PROBLEMS = """\
## Problems

A request that fails is answered with `application/problem+json` (RFC 9457): `type`, `title`, `status` and `detail`,
which says what was expected, what was found and what to do.
"""

_RUN_END = """\
## About this page

It is generated from the types of the program: `python -m agent.service.api.reference run > docs/run-api.md`.
"""

_PATH_EXAMPLES = {"mac": "0", "segment": "0", "rule": "rule-1"}


def document() -> str:
    """The whole page, in Markdown."""
    api = openapi()
    kinds = "".join(f"| `{kind}` | {' | '.join(words)} |\n" for kind, words in EVENT_KINDS.items())
    return "\n".join([_OPENING, *_requests(api), _STREAM + kinds, _problems(api, _PROBLEMS), *_types(api), _END])


def run_document() -> str:
    """The page on the API of a run, in Markdown."""
    api = openapi(RUN_ROUTES, RUN_TITLE)
    return "\n".join([_RUN_OPENING, *_requests(api), _problems(api, _RUN_PROBLEMS), *_types(api), _RUN_END])


def _requests(api: Mapping[str, Any]) -> Iterator[str]:
    for tag in (each["name"] for each in api["tags"]):
        yield f"## Requests: {tag}\n\n{TAGS[tag]}\n"
        for path, methods in api["paths"].items():
            for method, operation in methods.items():
                if operation["tags"] == [tag]:
                    yield _operation(method, path, operation)


def _types(api: Mapping[str, Any]) -> Iterator[str]:
    yield "## Types\n"
    for name, schema in api["components"]["schemas"].items():
        yield _type(name, schema)


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


def _problems(api: Mapping[str, Any], opening: str) -> str:
    responses = api["components"]["responses"].values()
    problems = [each["content"]["application/problem+json"]["example"] for each in responses]
    lines = _head("status", "`type`", "meaning")
    lines += [f"| {each['status']} | `{each['type']}` | {each['title']}. |" for each in problems]
    return opening.replace("{example}", json.dumps(problems[3], indent=2)) + "\n" + "\n".join(lines) + "\n"


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
    sys.stdout.write(run_document() if sys.argv[1:] == ["run"] else document())
