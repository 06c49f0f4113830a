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
    "worker_lost",
    "reset",
]


# Macs.


class Mac(Struct, frozen=True, kw_only=True):
    """One Mac, as it appears in lists."""

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
    """``new``: not enrolled so far; ``idle``: enrolled, without a session; ``left``: no longer enrolled."""
    power: PowerState
    enrolled: bool
    connected: bool
    """Whether its connection to the server is open."""
    online: bool
    """False while it is disconnected from every network."""
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
    """One answer of a Mac to a command. A command that was answered with NotNow has several answers."""

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
    """``enroll``, ``checkin``, ``report``, ``scep``, ``acme``, ``download``, ``lom_link`` or ``push``."""
    method: str
    url: str
    """Without its query."""
    http: str = ""
    """The version of HTTP: ``HTTP/2`` or ``HTTP/1.1``; empty where there was no connection."""
    request: Any = None
    """The body: decoded if it is a property list, otherwise as text; null if it is empty."""
    status: int | None = None
    """The HTTP status; null if there was no answer."""
    response: Any = None
    error: str = ""
    message_type: str = ""
    """The MessageType of a check-in."""
    request_type: str = ""
    """RequestType of the command in the response, or of the command whose result is in the request."""
    command_uuid: str = ""
    answer_status: str = ""
    """The Status of the result in the request."""
    rules: list[str] = field(default_factory=list)
    """The fault rules that hit it."""


class User(Struct, frozen=True, kw_only=True):
    """The logged-in user of a Mac."""

    user_id: str
    """UserID: the GUID."""
    short_name: str
    long_name: str
    network: bool
    """Whether it is an account of a directory service, which the server authenticates."""
    managed: bool | None
    """Whether the server manages the user; null: it has not been asked since the enrollment."""


class MacDetail(Mac, frozen=True, kw_only=True):
    """One Mac, with what is installed on it and its last exchanges."""

    dns_name: str
    """The CommonName of its LOM identities."""
    lom_addresses: list[str]
    """Its link-local IPv6 addresses, primary first."""
    build_version: str
    topic: str
    """The push topic of its enrollment; empty if it has none."""
    profiles: list[InstalledProfile]
    supervised: bool = True
    """Whether it is supervised (``--supervised``), as after Automated Device Enrollment."""
    user: User | None = None
    """The user of its user channel (``--users``); null: nobody is logged in."""
    pending: PendingResult | None
    last_error: str
    """Why its last session, check-in or enrollment failed; empty if it succeeded."""
    exchanges: list[Exchange]
    """The last ones, oldest first."""


class AddMacs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Macs to add. They are derived from the seed: the same request gives the same Macs."""

    count: Annotated[int, Meta(ge=1, le=MAX_ADDED)] = 1
    seed: Text | None = None
    """null: derived from the seed of the service and the number of the request since the last reset."""
    segment_size: Annotated[int, Meta(ge=1, le=MAX_ADDED)] | None = None
    """Macs in each segment; null: all in one."""
    os: Text | None = None
    """A release of macOS, such as ``26.4``, a major version, such as ``27``, or several, such as ``26.4,27`` or
    ``26=3,27=1``, with the same share each or with weights; null: the usual mix."""
    model: Text | None = None
    """A model identifier, such as ``Mac16,10``; null: a mix."""
    roles: Annotated[list[Role], Meta(min_length=1, max_length=2)] | None = None
    """The LOM roles of each; null: the first of a segment is Controller and Device, the others are Devices."""


class Enroll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The enrollment profile to enroll with: give ``url``, ``profile`` or neither."""

    url: Text | None = None
    """Where the Mac fetches its enrollment profile."""
    profile: bytes | None = None
    """The enrollment profile. Without ``url`` and ``profile`` it is that of ``--enroll``, or the lab's."""
    automated: bool | None = None
    """true: as in Setup Assistant. The Mac POSTs its signed MachineInfo to ``url`` and gets its profile; null: as
    ``--enrollment`` says."""
    await_configuration: bool = True
    """In an automated enrollment: the Mac stays in Setup Assistant until the server sends DeviceConfigured."""
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS


class Power(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of power: button (``on``, ``off``, ``reset``), plug (``pull_the_plug``) or mains.

    After ``pull_the_plug`` the Mac is off at once, and LOM can power it on: the plug is put back. After ``cut_mains``
    it has no LOM until ``restore_mains``, after which it boots if it ran before.
    """

    action: Literal["on", "off", "reset", "pull_the_plug", "cut_mains", "restore_mains"]


class Mains(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mains power of a whole segment."""

    action: Literal["pull_the_plug", "cut_mains", "restore_mains"]


class Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connect a Mac to its networks, or disconnect it from all."""

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
    """The status of an answer, a power state or whether the Mac is online, depending on ``kind``."""
    rules: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


class Wait(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait for the first event after number ``after`` that has all of these properties; null: any value."""

    kind: EventKind | None = None
    udid: Text | None = None
    command_uuid: Text | None = None
    request_type: Text | None = None
    status: Text | None = None
    after: Annotated[int, Meta(ge=0)] = 0
    """The number of an event; 0: past events count too."""
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS


class WaitState(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until a Mac has all of these properties; null: any value."""

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
    """By how much to advance the manual clock."""

    advance: Annotated[float, Meta(ge=0, le=10 * 365 * 24 * 3600.0)]
    """Seconds."""


class ClockState(Struct, frozen=True, kw_only=True):
    """The clock of the Macs, which times boots, retries, back-off and expiry."""

    kind: Literal["real", "manual"]
    seconds: float
    """Seconds since the start or the last reset."""
    pending: Count
    """How many timers are set."""
    next: float | None
    """Seconds until the next timer is due; null if none is set."""


class LabInfo(Struct, frozen=True, kw_only=True):
    """The lab beside the fleet."""

    url: str
    enroll_url: str
    automated_url: str = ""
    """The URL of automated enrollment."""
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
    """How many events of this kind there were since the last reset, including those that are no longer kept."""
    clock: Literal["real", "manual"]
    lab: LabInfo | None
    apns: APNsInfo | None
    state_file: str | None
    pid: Count
    workers: Count = 1
    """The processes that have the Macs: this one, or so many others."""
    lost_workers: list[str] = field(default_factory=list)
    """The workers that have ended by themselves, each with its Macs and the reason. What they had is missing in all
    answers."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failed request (RFC 9457)."""

    type: str
    """``urn:lom-agent:KIND``: ``not-found``, ``invalid``, ``unauthorized``, ``timeout``, ``conflict``, ``peer`` …"""
    title: str
    status: int
    detail: str = ""
    """What was expected, what was found, what to do."""
    nearest: list[Event] = field(default_factory=list)
    """If a wait failed: the events that matched the most properties, the best match first."""
    exchanges: list[Exchange] = field(default_factory=list)
    """The last exchanges of the Mac that the request is about."""


class Reset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reset of the service."""

    seed: Text | None = None
    """The seed of the Macs that are added later; null: that of the start."""
