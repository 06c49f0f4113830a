"""The exchanges of a fleet: the requests of its Macs and the responses, in a bounded log in memory.

An exchange keeps the raw bytes. ``decoded`` shows a body to people: a property list as plain data, without secrets.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, field, structs

from agent import plists

Kind = Literal["enroll", "checkin", "report", "scep", "acme", "download", "lom_link", "push", "raw"]

MOST_BODY_BYTES = 64 * 1024  # kept of each body
MOST_EXCHANGES = 10_000
MOST_BYTES = 64 * 1024 * 1024  # of all bodies in a log
_OVERHEAD_BYTES = 1024  # of an exchange without its bodies, about
REDACTED = "***"

# The one table of secrets, in lower case: the names of keys whose values are not shown, and parts of such names.
SECRET_NAMES = (
    "unlocktoken",
    "bootstraptoken",
    "applecaretoken",
    "pin",
    "authorization",
    "authtoken",
    "digestresponse",
    "tokendata",
    "clientidentifier",
)
SECRET_PARTS = (
    "challenge",
    "password",
    "passcode",
    "passphrase",
    "recoverykey",
    "privatekey",
    "secret",
    "pincode",
    "bypasscode",
)
# … and payloads whose PayloadContent is a private key.
SECRET_PAYLOADS = ("com.apple.security.pkcs12", "com.apple.security.pkcs1.key")

_SHOWN_TEXT = 4096  # characters of a text
_SHOWN_ITEMS = 1000  # of a list or a dictionary
_SHOWN_DEPTH = 24
_SHOWN_HEX = 32  # bytes of short data
_XML_SECRET = re.compile(r"<key>([^<]*)</key>\s*<string>[^<]*")
_XML_DATA = re.compile(r"<data>[^<]*")


class HTTPExchange(Struct, frozen=True, kw_only=True):
    """One exchange of a Mac: an HTTP request and its response, a request on a LOM link, or a push.

    A ``raw`` one is a request that does not come from the Mac's own behaviour: a probe wrote it.
    """

    number: int = 0
    """Its number in the log, from 1."""
    at: float
    """When it started, in seconds since the epoch."""
    seconds: float
    """How long it took."""
    device: int
    """The index of the Mac."""
    udid: str
    kind: Kind
    method: str = ""
    """Of HTTP; empty for a LOM link and a push."""
    url: str = ""
    """Without its query."""
    http: str = ""
    """The version of HTTP of the connection, ``HTTP/2`` or ``HTTP/1.1``; empty where none was agreed on."""
    request: bytes = b""
    request_truncated: bool = False
    """Whether ``request`` lacks its end."""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    """Of a ``raw`` exchange: the headers that its writer chose."""
    status: int | None = None
    """The HTTP status; None without a response."""
    response: bytes = b""
    response_truncated: bool = False
    """Whether ``response`` lacks its end."""
    response_headers: Mapping[str, str] = field(default_factory=dict)
    """With lower-case names."""
    error: str = ""
    """Why there is no response, or what the Mac did not accept."""
    request_type: str = ""
    """RequestType of the command that a report is about; the request of a LOM link."""
    message_type: str = ""
    """MessageType of a check-in; the operation of SCEP; the resource of ACME, such as ``newOrder``."""
    command_uuid: str = ""
    """CommandUUID of the command that a report is about; DeviceRequestUUID of a LOM link."""
    answer_status: str = ""
    """Status of a report."""
    rules: tuple[str, ...] = ()
    """The ids of the fault rules that hit."""


OnExchange = Callable[[HTTPExchange], object]


class ExchangeLog:
    """The last exchanges, bounded by their number and by the bytes of their bodies.

    ``on_exchange`` is called with each exchange when it is added.
    """

    def __init__(
        self,
        on_exchange: OnExchange | None = None,
        *,
        most: int = MOST_EXCHANGES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.on_exchange = on_exchange
        self._most = most
        self._most_bytes = most_bytes
        self._kept: deque[HTTPExchange] = deque()
        self._bytes = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[HTTPExchange]:
        """The exchanges in the log, the oldest first."""
        return iter(self._kept)

    @property
    def last_number(self) -> int:
        """The number of the last exchange, also where it is no longer in the log; 0 without one."""
        return self._number

    def continue_after(self, number: int) -> None:
        """Number the exchanges from here on. Only before the first exchange."""
        self._number = number

    def add(self, exchange: HTTPExchange) -> HTTPExchange:
        """Add an exchange; returns it as it is kept, with its number. The oldest ones make room for it."""
        self._number += 1
        request, response = exchange.request[:MOST_BODY_BYTES], exchange.response[:MOST_BODY_BYTES]
        exchange = structs.replace(
            exchange,
            number=self._number,
            request=request,
            request_truncated=len(request) < len(exchange.request),
            response=response,
            response_truncated=len(response) < len(exchange.response),
        )
        self._kept.append(exchange)
        self._bytes += _size(exchange)
        while len(self._kept) > self._most or (self._bytes > self._most_bytes and len(self._kept) > 1):
            self._bytes -= _size(self._kept.popleft())
        if self.on_exchange is not None:
            self.on_exchange(exchange)
        return exchange

    def of(self, udid: str, limit: int = 100) -> list[HTTPExchange]:
        """The last exchanges of the Mac with this UDID, at most ``limit``, the oldest first."""
        found: list[HTTPExchange] = []
        for exchange in reversed(self._kept):
            if len(found) >= limit:
                break
            if exchange.udid == udid:
                found.append(exchange)
        return found[::-1]

    def search(
        self, text: str = "", udid: str | None = None, kind: str | None = None, after: int = 0, limit: int = 100
    ) -> list[HTTPExchange]:
        """The last exchanges with a number above ``after``, at most ``limit``, the oldest first.

        ``text`` is looked for, in any case, in what is shown of an exchange: secrets are not found.
        """
        wanted = text.casefold()
        found: deque[HTTPExchange] = deque()
        for exchange in reversed(self._kept):
            if len(found) >= limit or exchange.number <= after:
                break
            if (
                (udid is None or exchange.udid == udid)
                and (kind is None or exchange.kind == kind)
                and (not wanted or _contains(exchange, wanted))
            ):
                found.appendleft(exchange)
        return list(found)

    def clear(self, udid: str | None = None) -> None:
        """Remove every exchange, or those of one Mac; the numbers continue."""
        self._kept = deque() if udid is None else deque(each for each in self._kept if each.udid != udid)
        self._bytes = sum(map(_size, self._kept))


def as_shown(exchange: HTTPExchange) -> dict[str, Any]:
    """An exchange as JSON-able data, its bodies ``decoded``."""
    shown = structs.asdict(exchange)
    shown["rules"] = list(exchange.rules)
    shown["request"] = decoded(exchange.request)
    shown["response"] = decoded(exchange.response)
    return shown


def decoded(body: bytes) -> Any:
    """A body as JSON-able data of bounded size, for people: None where it is empty.

    A property list and JSON as they are, without the values of secret names; data in them as hex digits if it is short,
    as a property list if it is one, else as its number of bytes. Other bytes as text, or as their number.
    """
    if not body:
        return None
    value = _parsed(body)
    if value is None:
        return _as_text(body)
    return _shown(value, _SHOWN_DEPTH)


def is_secret(name: str) -> bool:
    """Whether the value of a key with this name is not shown."""
    lower = name.lower()
    return lower in SECRET_NAMES or any(part in lower for part in SECRET_PARTS)


def has_secret(name: str, mapping: Mapping[str, Any]) -> bool:
    """Whether the value of this key of ``mapping`` is not shown.

    Also a private key, what an ACME request says (RFC 7515, with the client identifier), and the client identifier in
    an answer. A boolean is no secret (PasswordVerified), nor a dictionary of them (FirmwarePasswordStatus).
    """
    if is_secret(name):
        value = mapping.get(name)
        flags = list(value.values()) if isinstance(value, Mapping) else [value]
        return not all(isinstance(each, bool) for each in flags)
    if name == "PayloadContent":
        return mapping.get("PayloadType") in SECRET_PAYLOADS
    if name == "payload":
        return "protected" in mapping and "signature" in mapping
    return name == "value" and mapping.get("type") == "permanent-identifier"


def _parsed(body: bytes) -> Any:
    """The value of a property list or of JSON; None for other bytes."""
    start = body[:64].lstrip()
    try:
        if start.startswith((b"{", b"[")):
            return json.loads(body)
        if start.startswith((b"<?xml", b"<plist", b"<!DOCTYPE plist", b"bplist0", b"\xef\xbb\xbf<")):
            return plists.load(body)
    except (plists.PlistError, ValueError, RecursionError):
        return None
    return None


def _shown(value: Any, depth: int) -> Any:
    if depth <= 0 and isinstance(value, Mapping | list):
        return "…"
    if isinstance(value, Mapping):
        return _shown_mapping(value, depth)
    if isinstance(value, list):
        shown = [_shown(each, depth - 1) for each in value[:_SHOWN_ITEMS]]
        return [*shown, f"… {len(value) - _SHOWN_ITEMS:,} more"] if len(value) > _SHOWN_ITEMS else shown
    if isinstance(value, bytes):
        inner = _parsed(value)
        if inner is not None:
            return _shown(inner, depth - 1)
        return value.hex() if len(value) <= _SHOWN_HEX else f"{len(value):,} bytes"
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    return _cut(value) if isinstance(value, str) else value


def _shown_mapping(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, each in value.items():
        if len(shown) >= _SHOWN_ITEMS:
            shown["…"] = f"{len(value) - _SHOWN_ITEMS:,} more"
            break
        shown[_cut(name)] = REDACTED if has_secret(name, value) else _shown(each, depth - 1)
    return shown


def _as_text(body: bytes) -> str:
    """Bytes that are neither a property list nor JSON, such as a page, or a property list without its end."""
    try:
        text = body[:_SHOWN_TEXT].decode("utf-8", "strict" if len(body) <= _SHOWN_TEXT else "ignore")
    except UnicodeDecodeError:
        return f"{len(body):,} bytes"
    if not "".join(text.split()).isprintable():
        return f"{len(body):,} bytes"
    text = _XML_SECRET.sub(_without_secret, _XML_DATA.sub(f"<data>{REDACTED}", text))
    return _cut(text) + ("…" if len(body) > _SHOWN_TEXT else "")


def _without_secret(found: re.Match[str]) -> str:
    return f"<key>{found[1]}</key><string>{REDACTED}" if is_secret(found[1]) else found[0]


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}…"


def _size(exchange: HTTPExchange) -> int:
    return len(exchange.request) + len(exchange.response) + _OVERHEAD_BYTES


def _contains(exchange: HTTPExchange, wanted: str) -> bool:
    facts = (
        exchange.udid, exchange.kind, exchange.method, exchange.url, exchange.error, exchange.request_type,
        exchange.message_type, exchange.command_uuid, exchange.answer_status, *exchange.rules,
    )  # fmt: skip
    if any(wanted in fact.casefold() for fact in facts):
        return True
    return any(
        _may_contain(body, wanted) and wanted in json.dumps(decoded(body), ensure_ascii=False).casefold()
        for body in (exchange.request, exchange.response)
    )


def _may_contain(body: bytes, wanted: str) -> bool:
    """Whether it is worth to decode a body: plain XML and text show nothing but their own characters."""
    if not wanted.isascii() or not body.isascii() or body.startswith(b"bplist") or b"&" in body or b"<data>" in body:
        return bool(body)
    return wanted.encode() in body.lower()
