"""The types of a scenario: the fleet, the server, the phases of the run and its limits.

``reading`` makes them from TOML and checks what a type cannot express; ``reference``, ``template`` and the options of
``lom-agent run`` take names, bounds, units and help texts from here. Settings of another module are inherited from the
Struct in which that module declares them. Frozen and plain: a scenario is sent to worker processes as it is.
Durations are in seconds, rates per second for the whole fleet.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from agent.faults.decisions import MOST_RULES
from agent.faults.rules import Rule
from agent.fleet.population import DEFAULT_SEED, DEFAULT_SEGMENT_SIZE, MAX_DEVICES, Population
from agent.net.apns.behaviour import PushSettings
from agent.net.mac.fleet.behaviour import DEFAULT_TLS_FLOOR, MacSettings, TLSFloor
from agent.scenario.server_table import ServerPart
from agent.settings import Factor, Rate, RateOrNone, Seconds, Share, SomeSeconds, key

MOST_WORKERS = 1024
MOST_PHASES = 1000
MOST_STEPS = 10_000
MOST_CHANGES = 1000
NAME_PATTERN = r"\A[A-Za-z][A-Za-z0-9_-]{0,63}\Z"  # so that a name fits a dotted path, a file name and a JUnit case
DEFAULT_REQUEST: dict[str, Any] = {
    "RequestType": "DeviceInformation",
    "Queries": ["UDID", "SerialNumber", "DeviceName", "Model", "OSVersion", "BuildVersion"],
}

Count = Annotated[int, Meta(ge=1, le=MAX_DEVICES)]
Arrivals = Literal["constant", "poisson", "ramp", "step", "burst", "replay"]


class FleetPart(MacSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who the Macs are, and how they behave where macOS leaves it open."""

    devices: Annotated[Count, key("How many Macs to simulate.")] = 100
    seed: Annotated[
        str,
        key(
            "All Macs, their order and their arrivals are derived from this text: the same seed gives the same fleet "
            "on any machine."
        ),
    ] = DEFAULT_SEED
    segment_size: Annotated[
        Count, key("Macs in one segment (subnet). The first Mac of each segment is its LOM Controller.")
    ] = DEFAULT_SEGMENT_SIZE
    os: Annotated[
        str | tuple[str, ...] | dict[str, float] | None,
        key(
            "The macOS of every Mac: a release, such as `26.4`, or a major version, such as `27`. Of several, such as "
            "`26.4,27`, each has the same share, or that of its weight: `26=3,27=1`. None: the usual mix.",
            example="26.4",
        ),
    ] = None
    model: Annotated[
        str | None,
        key("The model of every Mac, by its identifier, such as `Mac16,10`; none: a mix.", example="Mac16,10"),
    ] = None

    @property
    def population(self) -> Population:
        """The Macs. Raises OperatorError for an unknown ``os`` or ``model``."""
        return Population(self.seed, self.devices, self.segment_size, os=self.os, model=self.model)


class TLSPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS between the Macs and the server."""

    floor: Annotated[
        TLSFloor,
        key(
            "What Macs with macOS 27 or later do about a server below the TLS that Apple asks for from 2026 on: "
            "`apple-2026` refuse it, `warn`, or `off`. SCEP servers are not judged."
        ),
    ] = DEFAULT_TLS_FLOOR
    resume: Annotated[
        Share, key("The share of new connections that offer an earlier session ticket; the others do a full handshake.")
    ] = 0.0


class MDMSignaturePart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header Mdm-Signature of Macs whose enrollment profile has SignMessage."""

    reuse: Annotated[
        Seconds,
        key(
            "How long a Mac sends the signature of its report Idle again; 0: only in the second of its signingTime, "
            "where a new one has the same bytes. It saves most of the CPU time of a session. Whether macOS does it is "
            "not known; `results.json` has the count.",
            "s",
        ),
    ] = 0.0


class LOMPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network that carries the LOM link between Controllers and Devices."""

    network: Annotated[
        str,
        key(
            "What carries the LOM link: `loopback` (TLS on `[::1]`), `memory` (no sockets, for large fleets) or "
            "`interface:NAME[,NAME…][:PORT]` (real interfaces; Linux, root)."
        ),
    ] = "loopback"
    dial: Annotated[
        Literal["race", "in-order"],
        key(
            "How a Controller tries several addresses of a Device: `race` (RFC 8305: the next one also after 0.25 s "
            "without a handshake) or `in-order` (the next one only after a failure)."
        ),
    ] = "race"


class PushPart(PushSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The APNs gateway, to which the server pushes; docs/push.md describes it."""

    enabled: Annotated[
        bool | None,
        key("Whether to open the gateway; none: with the embedded lab, or if `listen` is set.", example=True),
    ] = None
    listen: Annotated[
        str | None,
        key(
            "Open the APNs gateway, to which a server pushes, at this address; none: with the embedded lab (or "
            "`push.enabled`) on a free port, otherwise no gateway.",
            example="127.0.0.1:2197",
        ),
    ] = None
    tls: Annotated[
        str | None,
        key(
            "The folder of the gateway's CA, `ca.pem` and `ca.key`, which are made if they are missing.",
            path=True,
            example="apns",
        ),
    ] = None
    cert: Annotated[
        str | None,
        key(
            "The gateway's certificate (PEM, with its chain), instead of one of the CA in `tls`.",
            path=True,
            example="apns.pem",
        ),
    ] = None
    key: Annotated[str | None, key("The private key of `cert` (PEM).", path=True, example="apns.key")] = None
    provider_ca: Annotated[
        tuple[str, ...],
        key(
            "Accept only push certificates of these CAs; none: any push certificate, unverified.",
            path=True,
            example=["push-ca.pem"],
        ),
    ] = ()


class LoadPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Worker processes, and the defaults for phases that set neither `rate` nor `concurrency`."""

    workers: Annotated[
        Annotated[int, Meta(ge=0, le=MOST_WORKERS)],
        key("Worker processes that share the fleet; 0: one per core, with the embedded lab one fewer."),
    ] = 0
    arrivals: Annotated[Literal["constant", "poisson"], key("The shape of the arrivals of phases with a `rate`.")] = (
        "constant"
    )
    rate: Annotated[Rate | None, key("Arrivals per second, for the whole fleet.", "1/s", example=20.0)] = None
    concurrency: Annotated[
        Count | None,
        key(
            "How many Macs are active at a time: the next starts when one finishes (at least one per worker); instead "
            "of `rate`.",
            example=64,
        ),
    ] = None
    memory: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        key(
            "How much memory Macs without a session may keep in all workers, so that their next session costs less CPU "
            "time; beyond it the least recently used ones are serialised. 0: none; none: an eighth of the machine's.",
            "MiB",
            example=512,
        ),
    ] = None
    tail: Annotated[Seconds, key("How long the run waits at its end for operations in progress.", "s")] = 30.0
    worker_timeout: Annotated[
        Annotated[float, Meta(ge=10.0, le=86400.0)],
        key("A worker that does not report for this long is abandoned, and the run is incomplete.", "s"),
    ] = 60.0
    on_loss: Annotated[
        Literal["continue", "abort"],
        key("When a worker is lost: `continue` with the others, or `abort` the run. It is incomplete either way."),
    ] = "continue"


class PhaseBase(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """The keys of every phase: when it starts, and for which Macs."""

    name: Annotated[
        Annotated[str, Meta(pattern=rf"{NAME_PATTERN}|\A\Z")],
        key(
            "The name of the phase in results, limits and `--set`, unique in the scenario; none: its kind.",
            example="morning",
        ),
    ] = ""
    start_at: Annotated[
        Seconds | None,
        key("When it starts, from the start of the run; none: when the phase before allows it.", "s", example=60.0),
    ] = None
    wait: Annotated[
        bool, key("Whether the next phase waits until this one has finished; false: both start together.")
    ] = True
    share: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        key("The share of the Macs (for `power_cut`: of the segments) it is for; equal shares are the same Macs."),
    ] = 1.0
    segments: Annotated[Count | None, key("Only the Macs of the first N segments; none: all.", example=2)] = None

    timeout: Annotated[
        SomeSeconds,
        key(
            "How long one operation of the phase may take, plus the longest boot, before it fails. For an enrollment: "
            "how long it polls a SCEP CA that answers PENDING; its connections have separate time-outs.",
            "s",
        ),
    ] = 120.0

    @property
    def kind(self) -> str:
        """The kind of phase, as in the scenario."""
        return str(self.__struct_config__.tag)


class ArrivingPhase(PhaseBase, frozen=True, kw_only=True):
    """The keys of phases with arrivals: when each Mac is due."""

    arrivals: Annotated[
        Arrivals | None, key("The shape of the arrivals; none: that of `[load]`.", example="poisson")
    ] = None
    rate: Annotated[
        RateOrNone | None,
        key(
            "Arrivals per second, for the whole fleet; of a ramp: at its start. None: that of `[load]`.",
            "1/s",
            example=20.0,
        ),
    ] = None
    to_rate: Annotated[
        RateOrNone | None, key("With `ramp`: the rate at the end of `duration`.", "1/s", example=50.0)
    ] = None
    steps: Annotated[
        Annotated[tuple[tuple[RateOrNone, SomeSeconds], ...], Meta(max_length=MOST_STEPS)],
        key(
            "With `step`: `[[RATE, SECONDS], …]`, one after another; the last rate continues.",
            "1/s, s",
            example=[[5.0, 60.0], [20.0, 60.0]],
        ),
    ] = ()
    burst: Annotated[Count | None, key("With `burst`: how many Macs arrive at once.", example=50)] = None
    every: Annotated[SomeSeconds | None, key("With `burst`: the time between two bursts.", "s", example=10.0)] = None
    replay: Annotated[
        tuple[Seconds, ...], key("With `replay`: when each arrival is due.", "s", example=[0.0, 0.4, 1.5])
    ] = ()
    replay_file: Annotated[
        str | None,
        key("With `replay`: a file with one offset in seconds per line.", path=True, example="arrivals.txt"),
    ] = None
    concurrency: Annotated[
        Count | None,
        key(
            "How many Macs of the whole fleet are active at a time: the next starts when one finishes; instead of "
            "`rate`.",
            example=64,
        ),
    ] = None
    duration: Annotated[
        SomeSeconds | None,
        key("Repeat the chosen Macs in the same order for this long; none: each Mac once.", "s", example=60.0),
    ] = None


class EnrollPhase(ArrivingPhase, frozen=True, kw_only=True, tag="enroll"):
    """The chosen Macs enroll, each once at most.

    With a ramp the rate stays at `to_rate` after `duration`, until every Mac has started. With other arrivals
    `duration` ends the phase, and Macs that were not due by then do not enroll.
    """


class CheckinPhase(ArrivingPhase, frozen=True, kw_only=True, tag="checkin"):
    """The chosen Macs poll for commands: each opens a session, from Idle to the server's empty response."""

    by: Annotated[
        Literal["push", "self"] | None,
        key(
            "What starts the session, a push of the server or the Mac itself; none: a push where the server can be "
            "asked to push.",
            example="self",
        ),
    ] = None


class CommandPhase(ArrivingPhase, frozen=True, kw_only=True, tag="command"):
    """For each arrival one command is queued and the Mac is pushed; `delivery` is the time until its result arrives."""

    request: Annotated[
        dict[str, Any] | None,
        key(
            "The command's dictionary, with its RequestType; none: DeviceInformation with some Queries.",
            example={"RequestType": "ProfileList"},
        ),
    ] = None
    request_file: Annotated[
        str | None,
        key("The command's dictionary as a plist file, instead of `request`.", path=True, example="command.plist"),
    ] = None
    channel: Annotated[
        Literal["device", "user"],
        key(
            "For the device channel of the Macs, or for the user channel of those with a user whom the server manages "
            "(`fleet.users`); `user` with the lab and NanoMDM, whose name for it is `UDID:USERID`."
        ),
    ] = "device"


class LOMSetupPhase(ArrivingPhase, frozen=True, kw_only=True, tag="lom_setup"):
    """The chosen Macs are made ready for LOM: a LOM profile, then LOMSetupRequest."""

    install: Annotated[
        bool, key("First queue InstallProfile with a LOM profile of the run's CAs; false: the server does that.")
    ] = True


class LOMPhase(ArrivingPhase, frozen=True, kw_only=True, tag="lom"):
    """The chosen Macs are powered by LOM: each arrival is one LOMDeviceRequest to the Controller of a segment."""

    request: Annotated[Literal["PowerON", "PowerOFF", "Reset"], key("The request to the Devices.")] = "Reset"
    per_request: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_DEVICES)],
        key("Devices in one LOMDeviceRequest; 0: all of a segment."),
    ] = 1
    controllers: Annotated[
        bool, key("Whether the Controllers are targets too, each after the other Macs of its segment.")
    ] = True


class PowerCutPhase(PhaseBase, frozen=True, kw_only=True, tag="power_cut"):
    """Whole segments lose mains power, and get it back."""

    seconds: Annotated[SomeSeconds, key("How long a segment is without power.", "s")] = 10.0
    spread: Annotated[Seconds, key("The segments lose power evenly over this time; 0: all at once.", "s")] = 0.0
    return_spread: Annotated[
        Seconds, key("The segments get power back evenly over this additional time; 0: in the order of the loss.", "s")
    ] = 0.0


class IdlePhase(PhaseBase, frozen=True, kw_only=True, tag="idle"):
    """The run sends nothing to the Macs for a while; they still answer pushes of others."""

    seconds: Annotated[SomeSeconds, key("How long the phase lasts.", "s")] = 60.0
    poll: Annotated[
        SomeSeconds | None,
        key("How often each chosen Mac polls for commands; none: never.", "s", example=30.0),
    ] = None


Phase = EnrollPhase | CheckinPhase | CommandPhase | LOMSetupPhase | LOMPhase | PowerCutPhase | IdlePhase
PHASE_KINDS: dict[str, type[PhaseBase]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (EnrollPhase, CheckinPhase, CommandPhase, LOMSetupPhase, LOMPhase, PowerCutPhase, IdlePhase)
}


class Change(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A change of the running scenario, as somebody can make it by hand with `lom-agent run --control`."""

    at: Annotated[
        Seconds,
        key(
            "When. A `pause` and a `resume`: from the start of the run. A `rate`: from the start of its phase, without "
            "pauses.",
            "s",
            example=12.0,
        ),
    ]
    what: Annotated[
        Literal["pause", "resume", "rate"],
        key("`pause`: start nothing more; `resume`: go on; `rate`: go on at another rate.", example="rate"),
    ]
    phase: Annotated[str | None, key("With `rate`: the name of the phase.", example="patch")] = None
    rate: Annotated[
        Rate | None,
        key("With `rate`: the new rate of a phase with `constant` or `poisson` arrivals.", "1/s", example=50.0),
    ] = None
    factor: Annotated[
        Factor | None,
        key(
            "With `rate`, in place of a new rate: how much faster than planned the phase goes through its arrivals.",
            example=2.0,
        ),
    ] = None


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole scenario: `name`, `description` and `limits` stand at the top of the file, before the first table."""

    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)], key("The name of the run in results and reports.")
    ] = "scenario"
    description: Annotated[
        Annotated[str, Meta(max_length=10_000)],
        key("A sentence for the readers of the report.", example="What this run shows."),
    ] = ""
    limits: Annotated[
        tuple[str, ...],
        key(
            'Limits, such as `"session.p99 < 500ms"`; a failed limit fails the run.',
            example=["session.p99 < 500ms", "session.errors == 0"],
        ),
    ] = ()
    fleet: Annotated[FleetPart, key("Who the Macs are, and how they behave.")] = field(default_factory=FleetPart)
    server: Annotated[ServerPart, key("The MDM server.")] = field(default_factory=ServerPart)
    tls: Annotated[TLSPart, key("TLS to the server.")] = field(default_factory=TLSPart)
    mdm_signature: Annotated[MDMSignaturePart, key("The signatures of the Macs' messages.")] = field(
        default_factory=MDMSignaturePart
    )
    lom: Annotated[LOMPart, key("The LOM network.")] = field(default_factory=LOMPart)
    push: Annotated[PushPart, key("The APNs gateway.")] = field(default_factory=PushPart)
    load: Annotated[LoadPart, key("Worker processes, and defaults for phases.")] = field(default_factory=LoadPart)
    phases: Annotated[Annotated[tuple[Phase, ...], Meta(max_length=MOST_PHASES)], key("What happens, in order.")] = (
        field(name="phase", default=())
    )
    rules: Annotated[Annotated[tuple[Rule, ...], Meta(max_length=MOST_RULES)], key("Fault rules.")] = field(
        name="rule", default=()
    )
    changes: Annotated[
        Annotated[tuple[Change, ...], Meta(max_length=MOST_CHANGES)], key("Pauses and changed rates.")
    ] = field(name="change", default=())
