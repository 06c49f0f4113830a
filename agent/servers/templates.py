"""Request templates with placeholders, for the webhook adapter.

Placeholders of the Mac: ``{udid}``, ``{token_hex}``, ``{push_magic}``. Placeholders of the command: ``{command_uuid}``,
``{request_type}``, ``{command_plist}`` (the whole command as XML), ``{command_base64}`` (the same in base64).
``{env:NAME}`` is an environment variable, read once at the start. Of the LOM actions: ``{dns_name}``, ``{device}`` and
``{controller}`` (``true`` or ``false``); ``{action}``, ``{devices}`` (UDIDs with commas), ``{devices_json}`` (the same
as a JSON array).

Values are escaped: percent-encoded in a URL; in a body by its Content-Type (JSON: as part of a string, except for the
array; form: percent-encoded; XML: escaped, except for the plist; any other: not at all). Braces around anything other
than an identifier are literal.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import msgspec

from agent import plists
from agent.errors import OperatorError
from agent.fleet.population import Mac
from agent.net.http.http1 import Origin
from agent.servers.configs import RequestTemplate
from agent.servers.urls import split_server_url

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_WITH_BODY = ("PATCH", "POST", "PUT")  # sent with a Content-Length even if it is 0; some servers require one
MAC_NAMES = ("udid", "token_hex", "push_magic")
COMMAND_NAMES = ("command_uuid", "request_type", "command_plist", "command_base64")
LOM_PROFILE_NAMES = ("dns_name", "device", "controller")
LOM_REQUEST_NAMES = ("action", "devices", "devices_json")
_PLIST = "command_plist"
_ARRAY = "devices_json"
_PLACEHOLDER = re.compile(r"\{(env:)?([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[ -~\t\x80-\xff]*")

Values = Mapping[str, Callable[[], str]]
Escape = Callable[[str, str], str]  # escapes a value, given the placeholder's name and the value


class Rendered(msgspec.Struct, frozen=True):
    """A request with its values filled in, for the template's origin."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None


class Template:
    """A checked template. ``origin`` is the server of its requests.

    ``names`` are the allowed placeholders. ``secrets`` are texts that errors must redact: values from the environment,
    and header values. Raises OperatorError for an invalid template.
    """

    def __init__(
        self, template: RequestTemplate, names: tuple[str, ...], environment: Mapping[str, str], *, plain: bool
    ) -> None:
        self._names = names
        self._environment = environment
        self.secrets: list[str] = []
        self._method = template.method.upper()
        if self._method not in METHODS:
            raise OperatorError(
                f"expected one of {', '.join(METHODS)} as the method of a webhook, found {template.method!r}"
            )
        self.origin, self._target = self._split(template.url, plain=plain)
        self._headers = {name: self._header(name, value) for name, value in template.headers}
        self.secrets += _header_secrets(template.headers)
        kind = next((value for name, value in template.headers if name.lower() == "content-type"), None)
        self._body = self._parts(template.body, _escape_of(kind, template.body)) if template.body else None
        if self._body is not None and kind is None:
            self._headers["Content-Type"] = _Parts([("text", "application/xml")])

    def render(self, values: Values) -> Rendered:
        """The request with these values filled in."""
        return Rendered(
            self._method,
            self._target.text(values),
            {name: parts.text(values) for name, parts in self._headers.items()},
            self._body.text(values).encode() if self._body is not None else b"" if self._method in _WITH_BODY else None,
        )

    def _split(self, url: str, *, plain: bool) -> tuple[Origin, _Parts]:
        scheme, slashes, rest = url.partition("://")
        host, slash, _path = rest.partition("/")
        if "{" in scheme + host or not slashes:
            raise OperatorError(f"expected https://HOST/ without placeholders in a webhook's URL, found {url!r}")
        parts = self._parts(url, lambda _name, value: quote(value, safe=""))
        origin, _target = split_server_url(parts.text(_Sample()), plain=plain)
        return origin, parts.replace_prefix(f"{scheme}://{host}", "" if slash else "/")

    def _header(self, name: str, value: str) -> _Parts:
        if _HEADER_NAME.fullmatch(name) is None or name.lower() in ("host", "content-length", "transfer-encoding"):
            raise OperatorError(f"a webhook cannot set the header {name!r}")
        parts = self._parts(value, lambda _name, text: text)
        if _PLIST in parts.names:
            raise OperatorError(f"{{command_plist}} has several lines: use {{command_base64}} in the header {name}")
        if _HEADER_VALUE.fullmatch(parts.text(_Sample())) is None:
            raise OperatorError(f"the value of the header {name} has characters that are not allowed in a header")
        return parts

    def _parts(self, text: str, escape_value: Escape) -> _Parts:
        """Split a text at its placeholders; those of the environment are filled in."""
        found: list[tuple[str, str]] = []
        at = 0
        for match in _PLACEHOLDER.finditer(text):
            found.append(("text", text[at : match.start()]))
            at = match.end()
            name = match[2]
            if match[1]:
                if name not in self._environment:
                    raise OperatorError(f"the environment variable {name} of a webhook is not set")
                self.secrets.append(self._environment[name])
                found.append(("text", escape_value(name, self._environment[name])))
            elif name in self._names:
                found.append(("name", name))
            else:
                known = ", ".join(f"{{{each}}}" for each in self._names)
                raise OperatorError(f"expected a placeholder of {known}, {{env:NAME}}, found {match[0]}")
        return _Parts([*found, ("text", text[at:])], escape_value)


class _Parts:
    """A sequence of texts and placeholders."""

    def __init__(self, parts: list[tuple[str, str]], escape_value: Escape = lambda _name, value: value) -> None:
        self._parts = parts
        self._escape = escape_value

    @property
    def names(self) -> set[str]:
        """The names of its placeholders."""
        return {text for kind, text in self._parts if kind == "name"}

    def text(self, values: Values) -> str:
        """The text with these values filled in."""
        return "".join(text if kind == "text" else self._escape(text, values[text]()) for kind, text in self._parts)

    def replace_prefix(self, prefix: str, replacement: str) -> _Parts:
        """A copy in which ``replacement`` replaces the prefix of the first text."""
        (_kind, first), *rest = self._parts
        return _Parts([("text", replacement + first.removeprefix(prefix)), *rest], self._escape)


class _Sample(dict[str, Callable[[], str]]):
    """A sample value for each placeholder, to check the rest of a template."""

    def __missing__(self, name: str) -> Callable[[], str]:
        return lambda: name


def mac_values(mac: Mac) -> dict[str, Callable[[], str]]:
    """The values of the placeholders of a push."""
    return {
        "udid": lambda: mac.udid,
        "token_hex": lambda: mac.push_token.hex(),
        "push_magic": lambda: mac.push_magic,
    }


def command_values(command_uuid: str, command: Mapping[str, Any]) -> dict[str, Callable[[], str]]:
    """The values of the placeholders of a command, without those of its Mac; the plist is serialised on demand."""

    def plist() -> bytes:
        return plists.dump_xml({"Command": command, "CommandUUID": command_uuid})

    return {
        "command_uuid": lambda: command_uuid,
        "request_type": lambda: str(command.get("RequestType", "")),
        "command_plist": lambda: plist().decode(),
        "command_base64": lambda: b64encode(plist()).decode("ascii"),
    }


def lom_profile_values(dns_name: str, *, device: bool, controller: bool) -> dict[str, Callable[[], str]]:
    """The values of the placeholders of the LOM profile, without those of its Mac."""
    return {
        "dns_name": lambda: dns_name,
        "device": lambda: json.dumps(device),
        "controller": lambda: json.dumps(controller),
    }


def lom_request_values(action: str, devices: Collection[str]) -> dict[str, Callable[[], str]]:
    """The values of the placeholders of a LOM request, without those of its Controller."""
    return {
        "action": lambda: action,
        "devices": lambda: ",".join(devices),
        "devices_json": lambda: json.dumps(list(devices)),
    }


def _header_secrets(headers: tuple[tuple[str, str], ...]) -> list[str]:
    """The literal values of headers, and the last word of each (after Bearer or Basic): any may be a secret."""
    values = [value for name, value in headers if name.lower() not in ("accept", "content-type")]
    return [
        text for value in values if "{" not in value for text in (value, value.split()[-1] if value.split() else "")
    ]


def _escape_of(content_type: str | None, body: str) -> Escape:
    """How values in a body of this type are escaped."""
    if content_type is None:
        if body.strip() == f"{{{_PLIST}}}":
            return lambda _name, value: value
        if body:
            raise OperatorError(
                "a webhook with a body needs a Content-Type header, which determines how values are escaped"
            )
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return lambda name, value: value if name == _ARRAY else json.dumps(value)[1:-1]
    if kind == "application/x-www-form-urlencoded":
        return lambda _name, value: quote_plus(value)
    if kind in ("application/xml", "text/xml") or kind.endswith("+xml"):
        return lambda name, value: value if name == _PLIST else escape(value, {'"': "&quot;", "'": "&apos;"})
    return lambda _name, value: value
