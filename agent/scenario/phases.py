"""The phases of a scenario as types, one for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agent.fleet.population import MAX_DEVICES
from agent.scenario.values import MOST_STEPS, NAME_PATTERN, Count, RateOrNone, Seconds, SomeSeconds, key

Arrivals = Literal["constant", "poisson", "ramp", "step", "burst", "replay"]


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
