"""The types of a scenario: the fleet, the server, the phases of the run and its limits.

``reading`` makes them from TOML and checks what a type cannot express; ``reference``, ``template`` and the options of
``lom-agent run`` take names, bounds, units and help texts from here. Settings of another module are inherited from the
Struct in which that module declares them. Frozen and plain: a scenario is sent to worker processes as it is.
Durations are in seconds, rates per second for the whole fleet.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from agent.fleet.population import DEFAULT_SEED, DEFAULT_SEGMENT_SIZE, MAX_DEVICES
from agent.net.apns.behaviour import PushSettings
from agent.net.mac.behaviour import MacSettings
from agent.scenario.server_table import ServerPart
from agent.settings import Rate, RateOrNone, Seconds, Share, SomeSeconds, key

MOST_WORKERS = 1024
MOST_PHASES = 1000
MOST_STEPS = 10_000
NAME_PATTERN = "^[A-Za-z][A-Za-z0-9_-]{0,63}$"  # so that a name fits a dotted path, a file name and a JUnit case
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


class TLSPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The Macs' TLS towards the server."""

    resume: Annotated[
        Share, key("The share of new connections that offer a session ticket kept from before; else a full handshake.")
    ] = 0.0


class LOMPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What carries the LOM link between Controllers and Devices."""

    network: Annotated[
        str,
        key(
            "`loopback` (TLS on `[::1]`), `memory` (no sockets, for big fleets) or `interface:NAME[,NAME…][:PORT]` "
            "(Linux, root)."
        ),
    ] = "loopback"


class PushPart(PushSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The APNs gateway, to which the server pushes; docs/push.md says what it does."""

    enabled: Annotated[
        bool | None,
        key("Whether there is one; without it said: with the lab, and where `listen` is given.", example=True),
    ] = None
    listen: Annotated[
        str | None, key("ADDRESS:PORT of the gateway; none: `127.0.0.1:0`, a free port.", example="127.0.0.1:2197")
    ] = None
    tls: Annotated[
        str | None,
        key("The folder of the gateway's CA, `ca.pem` and `ca.key`, made where missing.", path=True, example="apns"),
    ] = None
    cert: Annotated[
        str | None,
        key("The gateway's own certificate (PEM, with its chain), instead of `tls`.", path=True, example="apns.pem"),
    ] = None
    key: Annotated[str | None, key("The key of `cert` (PEM).", path=True, example="apns.key")] = None
    provider_ca: Annotated[
        tuple[str, ...],
        key("Take only push certificates of these CAs; none: any, at its word.", path=True, example=["push-ca.pem"]),
    ] = ()


class LoadPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Worker processes, and what phases take where they say neither `rate` nor `concurrency` themselves."""

    workers: Annotated[Annotated[int, Meta(ge=0, le=MOST_WORKERS)], key("Worker processes; 0: one a core.")] = 0
    arrivals: Annotated[Literal["constant", "poisson"], key("How phases with a `rate` take it.")] = "constant"
    rate: Annotated[Rate | None, key("Arrivals a second, for the whole fleet.", "1/s", example=20.0)] = None
    concurrency: Annotated[
        Count | None,
        key("So many at a time, the next when one ends (each worker has one at least); instead of `rate`.", example=64),
    ] = None
    tail: Annotated[Seconds, key("How long the run waits at its end for what is under way.", "s")] = 30.0
    worker_timeout: Annotated[
        Annotated[float, Meta(ge=10.0, le=86400.0)],
        key("A worker that says nothing for so long is given up, and the run is incomplete.", "s"),
    ] = 60.0


class PhaseBase(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What every phase says: when it begins, and for which Macs it is."""

    name: Annotated[
        Annotated[str, Meta(pattern=f"{NAME_PATTERN}|^$")],
        key("Its name in results, limits and `--set`, unlike any other phase's; none: its kind.", example="morning"),
    ] = ""
    start_at: Annotated[
        Seconds | None,
        key("When it begins, from the run's start; none: when the phase before it lets it.", "s", example=60.0),
    ] = None
    wait: Annotated[
        bool, key("Whether the next phase waits until this one is over; false: it begins together with this one.")
    ] = True
    share: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        key("The share of the Macs (of `power_cut`: of the segments) that it is for; equal shares are the same Macs."),
    ] = 1.0
    segments: Annotated[Count | None, key("Only the Macs of the first N segments; none: of all.", example=2)] = None

    timeout: Annotated[
        SomeSeconds,
        key(
            "How long one thing of the phase may take, beside the longest boot, until it has failed; an enrolment's "
            "connections have time-outs of their own.",
            "s",
        ),
    ] = 120.0

    @property
    def kind(self) -> str:
        """Which kind of phase it is, as the scenario says it."""
        return str(self.__struct_config__.tag)


class ArrivingPhase(PhaseBase, frozen=True, kw_only=True):
    """What phases say in which the Macs come one after another: when each of them is due."""

    arrivals: Annotated[
        Arrivals | None, key("The shape of the arrivals; none: what `[load]` says.", example="poisson")
    ] = None
    rate: Annotated[
        RateOrNone | None,
        key(
            "Arrivals a second, for the whole fleet; of a ramp: at its begin. None: what `[load]` says.",
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
            "With `step`: `[[RATE, SECONDS], …]`, one after another; the last rate holds on.",
            "1/s, s",
            example=[[5.0, 60.0], [20.0, 60.0]],
        ),
    ] = ()
    burst: Annotated[Count | None, key("With `burst`: how many come at once.", example=50)] = None
    every: Annotated[SomeSeconds | None, key("With `burst`: how far the bursts are apart.", "s", example=10.0)] = None
    replay: Annotated[
        tuple[Seconds, ...], key("With `replay`: when each arrival is due.", "s", example=[0.0, 0.4, 1.5])
    ] = ()
    replay_file: Annotated[
        str | None,
        key("With `replay`: a file of them, one offset in seconds a line.", path=True, example="arrivals.txt"),
    ] = None
    concurrency: Annotated[
        Count | None, key("So many at a time for the whole fleet, the next when one ends; then no `rate`.", example=64)
    ] = None
    duration: Annotated[
        SomeSeconds | None,
        key("Go round the chosen Macs again and again for that long; none: each comes once.", "s", example=60.0),
    ] = None


class EnrollPhase(ArrivingPhase, frozen=True, kw_only=True, tag="enroll"):
    """The chosen Macs enrol, each once at most.

    With a ramp the rate stays at `to_rate` after `duration`, until every Mac came. With any other arrivals `duration`
    ends the phase, and whose turn has not come by then does not enrol.
    """


class CheckinPhase(ArrivingPhase, frozen=True, kw_only=True, tag="checkin"):
    """The chosen Macs look for commands: each opens a session, from Idle to the server's empty answer."""

    by: Annotated[
        Literal["push", "self"] | None,
        key(
            "Woken by a push of the server, or by itself; none: by push where the server can be asked to push.",
            example="self",
        ),
    ] = None


class CommandPhase(ArrivingPhase, frozen=True, kw_only=True, tag="command"):
    """One command is queued for each arrival, and the Mac is pushed; `delivery` counts until its result is there."""

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


class LOMSetupPhase(ArrivingPhase, frozen=True, kw_only=True, tag="lom_setup"):
    """The chosen Macs are made ready for LOM: a LOM profile, then LOMSetupRequest."""

    install: Annotated[
        bool, key("Queue InstallProfile with a LOM profile of the run's own CAs first; false: the server does that.")
    ] = True


class LOMPhase(ArrivingPhase, frozen=True, kw_only=True, tag="lom"):
    """LOM Controllers power the chosen Macs: each arrival is one LOMDeviceRequest to the Controller of a segment."""

    request: Annotated[Literal["PowerON", "PowerOFF", "Reset"], key("What is asked of the Devices.")] = "Reset"
    per_request: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_DEVICES)],
        key("Devices in one LOMDeviceRequest; 0: all of a segment."),
    ] = 1
    controllers: Annotated[
        bool, key("Whether the Controllers themselves are targets, too, each the last of its segment.")
    ] = True


class PowerCutPhase(PhaseBase, frozen=True, kw_only=True, tag="power_cut"):
    """The mains power of whole segments goes away, and comes back."""

    seconds: Annotated[SomeSeconds, key("How long a segment's power is away.", "s")] = 10.0
    spread: Annotated[Seconds, key("The segments lose it evenly over this time; 0: all at once.", "s")] = 0.0
    return_spread: Annotated[
        Seconds, key("The segments get it back evenly over this further time; 0: all as they lost it.", "s")
    ] = 0.0


class IdlePhase(PhaseBase, frozen=True, kw_only=True, tag="idle"):
    """Nothing is asked of the Macs for a while; what others push to them they answer."""

    seconds: Annotated[SomeSeconds, key("How long.", "s")] = 60.0
    poll: Annotated[
        SomeSeconds | None,
        key("Each chosen Mac looks for commands by itself this often; none: not.", "s", example=30.0),
    ] = None


Phase = EnrollPhase | CheckinPhase | CommandPhase | LOMSetupPhase | LOMPhase | PowerCutPhase | IdlePhase
PHASE_KINDS: dict[str, type[PhaseBase]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (EnrollPhase, CheckinPhase, CommandPhase, LOMSetupPhase, LOMPhase, PowerCutPhase, IdlePhase)
}


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole: `name`, `description` and `limits` stand at the top of the file, before the first table."""

    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)], key("What the results and the report call the run.")
    ] = "scenario"
    description: Annotated[
        Annotated[str, Meta(max_length=10_000)],
        key("A sentence for who reads the report.", example="What this run is to show."),
    ] = ""
    limits: Annotated[
        tuple[str, ...],
        key(
            'What has to hold, such as `"session.p99 < 500ms"`; one that does not fails the run.',
            example=["session.p99 < 500ms", "session.errors == 0"],
        ),
    ] = ()
    fleet: Annotated[FleetPart, key("Who the Macs are.")] = field(default_factory=FleetPart)
    server: Annotated[ServerPart, key("Which server.")] = field(default_factory=ServerPart)
    tls: Annotated[TLSPart, key("TLS towards the server.")] = field(default_factory=TLSPart)
    lom: Annotated[LOMPart, key("The LOM network.")] = field(default_factory=LOMPart)
    push: Annotated[PushPart, key("The APNs gateway.")] = field(default_factory=PushPart)
    load: Annotated[LoadPart, key("Workers, and what phases share.")] = field(default_factory=LoadPart)
    phases: Annotated[
        Annotated[tuple[Phase, ...], Meta(max_length=MOST_PHASES)], key("What happens, one after another.")
    ] = field(name="phase", default=())
