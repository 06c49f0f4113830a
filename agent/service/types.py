"""The JSON types of the control API: what ``lom-agent serve`` takes and returns.

The server checks requests by them, `agent.client` reads answers with them, and the OpenAPI document is made from them.
Times are seconds since the epoch unless a name says otherwise. Bytes are base64 in JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

MAX_ADDED = 100_000  # Macs in one request; ours
MAX_TIMEOUT_SECONDS = 600.0  # of one wait; ours
DEFAULT_TIMEOUT_SECONDS = 30.0

Text = Annotated[str, Meta(max_length=1000)]
Count = Annotated[int, Meta(ge=0)]
Timeout = Annotated[float, Meta(ge=0, le=MAX_TIMEOUT_SECONDS)]
Role = Literal["controller", "device"]
MacState = Literal["new", "idle", "session", "booting", "off", "left", "offline"]
PowerState = Literal["on", "off", "booting", "shutting_down", "no_mains"]
EventKind = Literal[
    "added",
    "removed",
    "enrolled",
    "enroll_failed",
    "unenrolled",
    "pushed",
    "session_started",
    "session_ended",
    "command",
    "answered",
    "delivered",
    "refused",
    "power",
    "network",
    "lom_request",
    "rule_hit",
    "protocol_error",
    "reset",
]


# Macs.


class Mac(Struct, frozen=True, kw_only=True):
    """One Mac, as a list shows it."""

    number: Count
    """Its number in this service, in the order in which the Macs were added."""
    udid: str
    serial_number: str
    name: str
    """DeviceName."""
    model: str
    """Model identifier, such as ``Mac16,10``."""
    os_version: str
    segment: Count
    """The number of its subnet in this service. A Controller reaches the Devices of its own segment."""
    roles: list[Role]
    """The first Mac of a segment is its Controller."""
    state: MacState
    power: PowerState
    enrolled: bool
    connected: bool
    """Whether its connection to the server is open."""
    online: bool
    """False while it is cut off from every network."""
    lom: bool
    """Whether a LOM profile is installed and the LOM endpoint has power."""
    boots: Count
    """How often it has booted."""


class InstalledProfile(Struct, frozen=True, kw_only=True):
    """One profile on a Mac."""

    identifier: str
    uuid: str
    name: str
    payload_types: list[str]


class Answer(Struct, frozen=True, kw_only=True):
    """What a Mac answered to a command, once. A command that got NotNow has several answers."""

    number: Count
    """The number of the event ``answered``."""
    at: float
    udid: str
    command_uuid: str
    request_type: str
    status: str
    """``Acknowledged``, ``NotNow``, ``Error`` or ``CommandFormatError``."""
    errors: list[str] = field(default_factory=list)
    """The descriptions of its error chain."""
    body: dict[str, Any] = field(default_factory=dict)
    """The result, decoded; secrets are redacted."""
    delivered: bool = False
    """Whether the server has accepted it."""


class PendingResult(Struct, frozen=True, kw_only=True):
    """A result that the server has not accepted yet."""

    command_uuid: str
    request_type: str
    status: str


class Exchange(Struct, frozen=True, kw_only=True):
    """One message of a Mac and its answer: an HTTP request, a LOM request or a push. Secrets are redacted."""

    number: Count
    at: float
    seconds: float
    udid: str
    kind: str
    """``enroll``, ``checkin``, ``report``, ``scep``, ``lom_link`` or ``push``."""
    method: str
    url: str
    """Without its query."""
    request: Any = None
    """The body, decoded where it is a property list, otherwise as text; None where it is empty."""
    status: int | None = None
    """The HTTP status; None where no answer came."""
    response: Any = None
    error: str = ""
    message_type: str = ""
    """The MessageType of a check-in."""
    request_type: str = ""
    """Of the command in the response, or of the command whose result is in the request."""
    command_uuid: str = ""
    answer_status: str = ""
    """Status in the request."""
    rules: list[str] = field(default_factory=list)
    """The rules that changed it."""


class MacDetail(Mac, frozen=True, kw_only=True):
    """One Mac, with what is installed on it and its last exchanges."""

    dns_name: str
    """The CommonName of its LOM identities."""
    lom_addresses: list[str]
    """Its link-local IPv6 addresses, primary first."""
    build_version: str
    topic: str
    """The push topic of its enrollment; empty where it has none."""
    profiles: list[InstalledProfile]
    pending: PendingResult | None
    last_error: str
    """Why its last session, check-in or enrollment failed; empty where it did not."""
    exchanges: list[Exchange]
    """The last ones, oldest first."""


class AddMacs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Macs to add. They are derived from the seed: the same request gives the same Macs."""

    count: Annotated[int, Meta(ge=1, le=MAX_ADDED)] = 1
    seed: Text | None = None
    """None: derived from the seed of the service and the number of the request since the last reset."""
    segment_size: Annotated[int, Meta(ge=1, le=MAX_ADDED)] | None = None
    """Macs in each segment; None: all in one."""
    os: Text | None = None
    """A release of macOS, such as ``26.4``, or a major version, such as ``27``; None: a mix."""
    model: Text | None = None
    """A model identifier, such as ``Mac16,10``; None: a mix."""


class Enroll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to enroll: with the profile at a URL, or with this profile."""

    url: Text | None = None
    profile: bytes | None = None
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS


class Power(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of power: the button (``on``, ``off``, ``reset``), the mains (``pull_the_plug``, ``restore_mains``)."""

    action: Literal["on", "off", "reset", "pull_the_plug", "restore_mains"]


class Mains(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mains power of a whole segment."""

    action: Literal["pull_the_plug", "restore_mains"]


class Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a Mac reaches any network."""

    online: bool


# What happens.


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened. ``data`` depends on ``kind``; docs/control-api.md lists its keys."""

    number: Count
    at: float
    kind: EventKind
    text: str
    """A sentence for people."""
    udid: str = ""
    command_uuid: str = ""
    request_type: str = ""
    status: str = ""
    """Of an answer, a power state, an HTTP status: what the kind is about."""
    rules: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


class Wait(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait for the first event after number ``after`` that has all of these properties; None is any."""

    kind: EventKind | None = None
    udid: Text | None = None
    command_uuid: Text | None = None
    request_type: Text | None = None
    status: Text | None = None
    after: Annotated[int, Meta(ge=0)] = 0
    """0: events of the past count too."""
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS


class WaitState(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until a Mac has all of these properties; None is any."""

    power: PowerState | None = None
    state: MacState | None = None
    enrolled: bool | None = None
    lom: bool | None = None
    connected: bool | None = None
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS


class Results(Struct, frozen=True, kw_only=True):
    """The operations since the start or the last reset, as in results.json."""

    seconds: float
    operations: dict[str, Any]
    errors: list[Any]
    cut_short: list[Any]


class AdvanceClock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move the manual clock."""

    advance: Annotated[float, Meta(ge=0, le=10 * 365 * 24 * 3600.0)]
    """Seconds."""


class ClockState(Struct, frozen=True, kw_only=True):
    """The clock of the Macs: boots, retries, back-off, expiry."""

    kind: Literal["real", "manual"]
    seconds: float
    """Since the start or the last reset."""
    pending: Count
    """Timers that are set."""
    next: float | None
    """Seconds until the next one; None where none is set."""


class LabInfo(Struct, frozen=True, kw_only=True):
    """The lab beside the fleet."""

    url: str
    enroll_url: str
    token: str
    ca: str
    """Its CA certificate in PEM."""


class APNsInfo(Struct, frozen=True, kw_only=True):
    """The APNs gateway beside the fleet."""

    url: str
    ca: str
    """The CA certificate of the gateway in PEM."""
    provider_ca: str
    """The CA certificates whose client certificates it accepts, in PEM; empty: any."""


class ServiceInfo(Struct, frozen=True, kw_only=True):
    """The service."""

    version: str
    seed: str
    macs: Count
    enrolled: Count
    rules: Count
    last_event: Count
    protocol_errors: Count = 0
    """Events of this kind since the last reset, also those that are no longer kept."""
    clock: Literal["real", "manual"]
    lab: LabInfo | None
    apns: APNsInfo | None
    state_file: str | None
    pid: Count


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failed request (RFC 9457)."""

    type: str
    """``urn:lom-agent:KIND``: ``not-found``, ``invalid``, ``unauthorized``, ``timeout``, ``conflict``, ``peer`` …"""
    title: str
    status: int
    detail: str = ""
    """What was expected, what was found, what to do."""
    nearest: list[Event] = field(default_factory=list)
    """Of a wait that failed: the events that came closest, nearest first."""
    exchanges: list[Exchange] = field(default_factory=list)
    """The last exchanges of the Mac that it is about."""


class Reset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reset of the service."""

    seed: Text | None = None
    """The seed of the Macs that will be added; None: the one of the start."""
