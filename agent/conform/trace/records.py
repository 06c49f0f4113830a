"""The trace of a conformance run: typed records, and the file of them (JSON Lines). No requirement sees anything else.

The first line is a Header and the last one an End; every other line is one record with ``type``, ``number`` (from 1,
in the order in which the records were made) and ``probe``. Bodies are as `agent.conform.trace.bodies` keeps them: no
secret is in the file. A file with another format or a higher version is refused, and one in which a record is missing
or twice. A file without an End is read, as a trace that is not whole. New record types and new fields may come without
a new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from agent import __version__
from agent.conform.trace.bodies import Body
from agent.errors import OperatorError
from agent.files import open_private, read_file
from agent.measure.exchanges import Kind

FORMAT = "lom-agent conformance trace"
VERSION = 1
MOST_BYTES = 512 * 1024 * 1024
MOST_RECORDS = 500_000
_YEAR_9999 = 253_370_764_800  # seconds since the epoch
ProfileName = Literal["lom", "mdm", "macos27", "all"]
_FROM_OTHERS = ("download", "lom_link")  # kinds of exchanges that another than the MDM server may answer


class ServerFacts(Struct, frozen=True, omit_defaults=True):
    """The server, as far as it is known."""

    adapter: str
    """How commands are queued: ``lab``, ``nanomdm``, ``micromdm``, ``webhook``, ``manual`` or ``none``."""
    url: str = ""
    """Of the enrollment profile, without its query; empty for a file."""
    software: str = ""
    """As the operator said; in a report otherwise from the header ``Server`` of its answers."""


class Header(Struct, frozen=True, kw_only=True, tag="header"):
    """What the trace is of."""

    format: str = FORMAT
    version: int = VERSION
    agent: str = __version__
    started: Annotated[float, Meta(ge=0, lt=_YEAR_9999)]
    """Seconds since the epoch."""
    seed: str
    profile: ProfileName
    only: tuple[str, ...] = ()
    os: str | None = None
    """The macOS of the Macs, unless a probe needs another one; None: a mix."""
    server: ServerFacts


class MacRecord(Struct, frozen=True, kw_only=True, tag="mac"):
    """A probe has a new Mac."""

    number: int
    probe: str
    udid: str
    serial_number: str
    os: str
    model: str
    roles: tuple[str, ...]
    dns_name: str
    """By which its LOM identity should be named."""
    segment: int
    """Macs with the same number are in one subnet."""


class ExchangeRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="exchange"):
    """An HTTP request of a Mac and its response, or a request on a LOM link."""

    number: int
    probe: str
    at: float
    """When it started, in seconds since the epoch."""
    seconds: float
    udid: str
    kind: Kind
    """``enroll`` (fetches the profile), ``checkin``, ``report``, ``scep``, ``acme``, ``download`` (an app or asset),
    ``lom_link``, ``raw`` (a probe wrote it)."""
    method: str = ""
    url: str = ""
    """Without its query."""
    http: str = ""
    """The version of HTTP of the connection: ``HTTP/2`` or ``HTTP/1.1``; empty where there was none."""
    request_headers: dict[str, str] = field(default_factory=dict)
    """Of a ``raw`` exchange, lower-case names."""
    request: Body = field(default_factory=Body)
    status: int | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    response: Body = field(default_factory=Body)
    error: str = ""
    """Why there is no response, or what the Mac did not accept."""
    request_type: str = ""
    message_type: str = ""
    """MessageType of a check-in; operation of SCEP; resource of ACME."""
    command_uuid: str = ""
    answer_status: str = ""
    """Status of a report: ``Idle``, ``Acknowledged`` …"""
    rules: tuple[str, ...] = ()
    """The ids of the fault rules that hit."""

    @property
    def accepted(self) -> bool:
        """Whether it was answered with a status from 200 to 299."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        """The media type of the response, in lower case, without parameters."""
        return self.response_headers.get("content-type", "").partition(";")[0].strip().lower()


class PushRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="push"):
    """A request that the APNs gateway got, and its answer."""

    number: int
    probe: str
    at: float
    udid: str = ""
    """Of the Mac with this push token; empty if it has none."""
    token: str = ""
    """The fingerprint of the push token, as in the TokenUpdate."""
    magic: str = ""
    """The fingerprint of ``mdm`` in the payload; empty if there is none."""
    provider: str = ""
    """The topic in the provider's certificate."""
    topic: str | None = None
    """The header ``apns-topic``; None: there is none. The same holds for the next four."""
    push_type: str | None = None
    expiration: str | None = None
    priority: str | None = None
    apns_id: str | None = None
    keys: tuple[str, ...] = ()
    """The keys of the payload."""
    length: int = 0
    """Of the payload, in bytes."""
    status: int = 0
    """Of the answer; 0: the connection was reset."""
    reason: str = ""
    """Of an answer other than 200."""


class TLSRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tls"):
    """A TLS handshake that a probe did (`agent.conform.stage.handshakes`); no request followed."""

    number: int
    probe: str
    at: float
    udid: str = ""
    origin: str
    """HOST:PORT."""
    says: str
    """The probe's word for what it offered."""
    lowest: str
    highest: str
    ciphers: str = ""
    """Offered, in OpenSSL's words; empty: its default."""
    version: str = ""
    """Agreed on: ``TLSv1.2``; empty: there was no handshake."""
    cipher: str = ""
    extended_master_secret: bool | None = None
    chain: tuple[str, ...] = ()
    """The server's certificates in PEM, its own first."""
    error: str = ""


class NoteRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="note"):
    """What a probe did, or waited for in vain."""

    number: int
    probe: str
    at: float
    step: str
    """``queued``, ``refused``, ``session``, ``waited``, or a word of the probe's own."""
    udid: str = ""
    command_uuid: str = ""
    request_type: str = ""
    data: dict[str, Any] = field(default_factory=dict)


ProbeOutcome = Literal["done", "stopped", "not run"]


class ProbeRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="probe"):
    """A probe has ended."""

    number: int
    probe: str
    at: float
    outcome: ProbeOutcome
    reason: str = ""
    """Why it is not ``done``: a sentence."""


Record = MacRecord | ExchangeRecord | PushRecord | TLSRecord | NoteRecord | ProbeRecord


class End(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="end"):
    """The trace is whole: nothing was cut off."""

    records: int
    """How many it has, without Header and End."""
    signal: Annotated[int, Meta(ge=0, le=127)] = 0
    """The number of the signal that stopped the run; 0: none did."""


_decoder: msgspec.json.Decoder[Header | End | Record] = msgspec.json.Decoder(Header | End | Record)
_encode = msgspec.json.Encoder(decimal_format="number").encode


STOPPED = "The run was stopped before this."  # the reason of a probe


class Trace:
    """A header and its records. ``signal`` is the number of the signal that stopped the run; 0: none did.

    It is not ``whole`` if it was read from a file without an End: records at its end may be missing.
    """

    def __init__(self, header: Header, records: Iterable[Record] = (), *, whole: bool = True, signal: int = 0) -> None:
        self.header = header
        self.records: list[Record] = list(records)
        self.whole = whole
        self.signal = signal

    @property
    def complete(self) -> bool:
        """Whether it is known that the run came to its end."""
        stopped = any(isinstance(each, ProbeRecord) and each.reason == STOPPED for each in self.records)
        return self.whole and not self.signal and not stopped

    def software(self) -> str:
        """The server's software and version: as the operator said, or as the server calls itself; empty: unknown."""
        if self.header.server.software:
            return self.header.server.software
        for record in self.records:
            if isinstance(record, ExchangeRecord) and record.kind not in _FROM_OTHERS:
                name = record.response_headers.get("server")
                if name is not None:
                    return name[:200]
        return ""


def write_trace(path: Path, trace: Trace) -> Path:
    """Write a trace, to a file that only its owner can read. Raises OperatorError."""
    try:
        with open_private(path) as file:
            ends = (End(records=len(trace.records), signal=trace.signal),) if trace.whole else ()
            for line in (trace.header, *trace.records, *ends):
                file.write(_encode(line) + b"\n")
    except OSError as error:
        raise OperatorError(f"The trace {path} cannot be written: {error.strerror}. Name another file.") from error
    return path


def read_trace(path: Path) -> Trace:
    """Read a trace, whose lines after the first may be in any order.

    Raises OperatorError for a file that is none, has a later version, lacks a record before its last or before its end,
    or is too long.
    """
    lines = read_file(path, "the trace", MOST_BYTES).splitlines()
    if len(lines) > MOST_RECORDS + 2:
        raise OperatorError(f"Expected at most {MOST_RECORDS:,} records in the trace {path}, found {len(lines):,}.")
    header = _header(path, lines)
    records: list[Record] = []
    end: End | None = None
    for number, line in enumerate(lines[1:], start=2):
        record = _line(path, number, line)
        if isinstance(record, Header) or (isinstance(record, End) and end is not None):
            what = "header" if isinstance(record, Header) else "end"
            raise OperatorError(f"Expected one {what} in the trace {path}, found another in line {number}.")
        if isinstance(record, End):
            end = record
        else:
            records.append(record)
    records.sort(key=lambda record: record.number)
    _check_numbers(path, [record.number for record in records], len(records) if end is None else end.records)
    return Trace(header, records, whole=end is not None, signal=0 if end is None else end.signal)


def _check_numbers(path: Path, numbers: Sequence[int], count: int) -> None:
    """Check that these, sorted, are the numbers from 1 to ``count``."""
    found = next((each for each, number in enumerate(numbers, start=1) if number != each), None)
    if found is None and len(numbers) == count:
        return
    if found is None:
        seen = f"{len(numbers):,}"
    else:
        seen = f"another record {numbers[found - 1]}" if numbers[found - 1] < found else f"no record {found}"
    raise OperatorError(
        f"Expected each record from 1 to {count:,} once in the trace {path}, found {seen}. "
        "Use the trace as lom-agent wrote it."
    )


def _header(path: Path, lines: Sequence[bytes]) -> Header:
    try:
        first = msgspec.json.decode(lines[0], type=dict[str, Any]) if lines else {}
    except (msgspec.DecodeError, RecursionError):
        first = {}
    if first.get("format") != FORMAT:
        raise OperatorError(
            f"Expected a conformance trace in {path}, found another file. `lom-agent conform --trace FILE` writes one."
        )
    if first.get("version") != VERSION:
        raise OperatorError(
            f"Expected version {VERSION} of the trace {path}, found {str(first.get('version'))[:20]}. "
            "Use the version of lom-agent that wrote it."
        )
    header = _line(path, 1, lines[0])
    if not isinstance(header, Header):
        raise OperatorError(f"Expected a header in line 1 of the trace {path}, found a record.")
    return header


def _line(path: Path, number: int, line: bytes) -> Header | End | Record:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise OperatorError(f"Expected a record in line {number} of the trace {path}, found: {error}") from error
