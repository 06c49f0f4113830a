"""Checks of phases that types cannot express, and the values of keys that are derived from others."""

from __future__ import annotations

import math
from typing import Any

from msgspec import structs

from agent import plists
from agent.errors import MisuseError, OperatorError, PeerError
from agent.files import read_file
from agent.scenario.checks.tables import can_push
from agent.scenario.pacing import phase_arrivals, phase_concurrency, phase_rate
from agent.scenario.types import (
    DEFAULT_REQUEST,
    ArrivingPhase,
    CheckinPhase,
    CommandPhase,
    EnrollPhase,
    IdlePhase,
    LoadPart,
    Phase,
    PhaseBase,
    PowerCutPhase,
    Scenario,
)
from agent.settings import LONGEST_SECONDS, LOWEST_RATE

MAX_REQUEST_BYTES = 4 * 1024 * 1024  # the limit of the lab's API
MAX_REPLAY_BYTES = 64 * 1024 * 1024
_GO_WITH = {
    "rate": ("constant", "poisson", "ramp"),
    "to_rate": ("ramp",),
    "steps": ("step",),
    "burst": ("burst",),
    "every": ("burst",),
    "replay": ("replay",),
    "replay_file": ("replay",),
}


def checked_phases(scenario: Scenario) -> Scenario:
    """The scenario with the names, commands and replays of its phases filled in, once ``checked_tables`` has passed it.

    Raises OperatorError.
    """
    if not scenario.phases:
        raise OperatorError('a scenario needs phases; start with [[phase]] and kind = "enroll"')
    phases = tuple(structs.replace(phase, name=phase.name or phase.kind) for phase in scenario.phases)
    _check_names(phases)
    _check_order(phases)
    checked: list[Phase] = []
    enrolled = False
    for number, phase in enumerate(phases):
        try:
            checked.append(_checked(phase, scenario, enrolled=enrolled))
        except OperatorError as error:
            raise OperatorError(f"{_label(number, phase)}: {error}") from error
        enrolled = enrolled or isinstance(phase, EnrollPhase)
    return structs.replace(scenario, phases=tuple(checked))


def _label(number: int, phase: PhaseBase) -> str:
    return f'phase[{number}] ("{phase.name}")'


def _check_names(phases: tuple[Phase, ...]) -> None:
    first: dict[str, int] = {}
    for number, phase in enumerate(phases):
        if phase.name in first:
            raise OperatorError(
                f'phase[{first[phase.name]}] and phase[{number}] are both called "{phase.name}"; '
                "give each a unique name (the default name of a phase is its kind)"
            )
        first[phase.name] = number


def _check_order(phases: tuple[Phase, ...]) -> None:
    latest = 0.0
    for number, phase in enumerate(phases):
        if phase.start_at is None:
            continue
        if number and phases[number - 1].wait:
            raise OperatorError(
                f"{_label(number, phase)} has start_at, but {_label(number - 1, phases[number - 1])} before it has "
                "wait = true: set wait = false there, or leave start_at out"
            )
        if phase.start_at < latest:
            raise OperatorError(
                f"{_label(number, phase)} has start_at = {phase.start_at:g}, but a phase before it starts at "
                f"{latest:g}: put the phases in the order in which they start"
            )
        latest = phase.start_at


def _checked(phase: Phase, scenario: Scenario, *, enrolled: bool) -> Phase:
    if isinstance(phase, PowerCutPhase | IdlePhase):
        return phase
    if not isinstance(phase, EnrollPhase):
        _check_possible(phase, scenario, enrolled=enrolled)
    if phase.replay_file is not None and not phase.replay:
        phase = structs.replace(phase, replay=_replay(phase.replay_file))
    elif phase.replay_file is not None:
        raise OperatorError("replay and replay_file are alternatives; give one of them")
    else:
        phase = structs.replace(phase, replay=tuple(sorted(phase.replay)))
    _check_pace(phase, scenario.load)
    if isinstance(phase, CommandPhase):
        return structs.replace(phase, request=_request(phase))
    if isinstance(phase, CheckinPhase) and phase.by is None:
        return structs.replace(phase, by="push" if can_push(scenario) else "self")
    return phase


def _check_possible(phase: ArrivingPhase, scenario: Scenario, *, enrolled: bool) -> None:
    """Refuse a phase whose server or enrollment is missing. Raises OperatorError."""
    if not enrolled:
        raise OperatorError('no Mac is enrolled yet: put a phase of kind "enroll" before')
    server = scenario.server
    if isinstance(phase, CheckinPhase):
        if phase.by == "push" and not can_push(scenario):
            lacks = (
                "server.webhook.push" if server.webhook is not None and server.webhook.push is None else
                "a server.adapter that can be asked to push" if server.adapter == "none" else "push.listen"
            )  # fmt: skip
            raise OperatorError(f'by = "push" needs {lacks}; or set by = "self"')
    elif server.adapter == "none":
        raise OperatorError(
            'no API queues commands: server.adapter is "none"; set it to "nanomdm", "micromdm" or "webhook", or to '
            '"lab" with [server.lab], as docs/servers.md says'
        )
    if isinstance(phase, CommandPhase) and phase.channel == "user":
        if not scenario.fleet.users:
            raise OperatorError('channel = "user" needs Macs with a logged-in user: set fleet.users')
        if server.adapter not in ("lab", "nanomdm"):
            raise OperatorError(f'channel = "user" needs the lab or NanoMDM, found server.adapter = "{server.adapter}"')


def _check_pace(phase: ArrivingPhase, load: LoadPart) -> None:
    """Refuse keys of arrivals that contradict each other or are missing. Raises OperatorError."""
    if phase.concurrency is not None:
        given = [name for name in ("arrivals", *_GO_WITH) if _given(phase, name)]
        if given:
            raise OperatorError(
                f"concurrency starts the next Mac when one finishes, so it does not go with {given[-1]}"
            )
        return
    arrivals = phase_arrivals(phase, load)
    for name, shapes in _GO_WITH.items():
        if _given(phase, name) and arrivals not in shapes:
            goes = " or ".join(f'arrivals = "{shape}"' for shape in shapes)
            raise OperatorError(f'{name} needs {goes}, found arrivals = "{arrivals}"')
    if phase_concurrency(phase, load) is not None:
        return
    rate = phase_rate(phase, load)
    _check_rates(phase, rate)
    match arrivals:
        case "constant" | "poisson":
            _check_rate(phase, arrivals, rate)
        case "ramp":
            _check_ramp(phase, rate)
        case "step":
            _check_steps(phase)
        case "burst" if phase.burst is None or phase.every is None:
            raise OperatorError('arrivals = "burst" needs burst (how many at once) and every (seconds)')
        case "replay" if not phase.replay:
            raise OperatorError('arrivals = "replay" needs replay or replay_file, with at least one offset')


def _check_rates(phase: ArrivingPhase, rate: float | None) -> None:
    rates = [("rate", rate), ("to_rate", phase.to_rate), *(("steps", step) for step, _ in phase.steps)]
    for name, number in rates:
        if number and number < LOWEST_RATE:
            raise OperatorError(f"{name}: expected 0 or at least {LOWEST_RATE:f}, found {number:g}")


def _given(phase: ArrivingPhase, name: str) -> bool:
    return getattr(phase, name) not in (None, ())


def _check_rate(phase: ArrivingPhase, arrivals: str, rate: float | None) -> None:
    if rate is not None and rate <= 0:
        raise OperatorError(f'rate: expected a number above 0 with arrivals = "{arrivals}", found 0')
    if rate is None and arrivals == "poisson":
        raise OperatorError('arrivals = "poisson" needs rate, here or in [load]')
    if rate is None and phase.duration is not None:
        raise OperatorError("duration needs rate or concurrency, here or in [load]: the pace of the repetition")


def _check_ramp(phase: ArrivingPhase, rate: float | None) -> None:
    if rate is None or phase.to_rate is None or phase.duration is None:
        raise OperatorError('arrivals = "ramp" needs rate (at its start), to_rate (at its end) and duration (seconds)')
    if rate + phase.to_rate <= 0:
        raise OperatorError("rate and to_rate are both 0, so no Mac would start")
    if isinstance(phase, EnrollPhase) and phase.to_rate <= 0:
        raise OperatorError("to_rate is 0, so that not every Mac would enroll")


def _check_steps(phase: ArrivingPhase) -> None:
    if not any(rate for rate, _ in phase.steps):
        raise OperatorError(
            'arrivals = "step" needs steps, such as [[5, 60], [20, 60]], with at least one rate above 0'
        )
    if not phase.steps[-1][0] and phase.duration is None:
        raise OperatorError("the last of steps has the rate 0, which continues, so that not every Mac would start")


def _replay(name: str) -> tuple[float, ...]:
    text = read_file(name, "the replay_file", MAX_REPLAY_BYTES)
    offsets: list[float] = []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            seconds = float(word)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= LONGEST_SECONDS:
            raise OperatorError(
                f"line {number} of the replay_file {name}: expected a number of seconds from 0 to "
                f"{LONGEST_SECONDS:,.0f}, found {word[:40]!r}"
            )
        offsets.append(seconds)
    return tuple(sorted(offsets))


def _request(phase: CommandPhase) -> dict[str, Any]:
    """The command's dictionary, from the phase or its file. Raises OperatorError."""
    if phase.request is not None and phase.request_file is not None:
        raise OperatorError("request and request_file are alternatives; give one of them")
    request = DEFAULT_REQUEST if phase.request is None else phase.request
    if phase.request_file is not None:
        data = read_file(phase.request_file, "the request_file", MAX_REQUEST_BYTES)
        try:
            request = plists.load_dict(data, what=f"request_file {phase.request_file}")
        except PeerError as error:
            raise OperatorError(str(error)) from error
        inner = request.get("Command")
        request = inner if isinstance(inner, dict) else request
    kind = request.get("RequestType")
    if not isinstance(kind, str) or not kind:
        raise OperatorError('request needs its RequestType, such as "ProfileList"')
    try:
        plists.dump_xml(request)
    except MisuseError as error:
        raise OperatorError(f"request cannot be sent as a property list: {error}") from error
    return request
