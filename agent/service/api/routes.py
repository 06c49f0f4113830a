"""The requests of the control API, as data: the server, the OpenAPI document and its pages are made from this table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.faults.decisions import RuleCounts
from agent.faults.rules import Rule
from agent.service.types import (
    AddMacs,
    AdvanceClock,
    Answer,
    ClockState,
    Count,
    Enroll,
    Event,
    EventKind,
    Exchange,
    Mac,
    MacDetail,
    MacState,
    Mains,
    Network,
    Power,
    Reset,
    Results,
    Role,
    ServiceInfo,
    Wait,
    WaitState,
)

MAX_LISTED = 10_000  # items in one answer; ours
After = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Limit = Annotated[int, Meta(ge=0, le=MAX_LISTED)]

FLEET_TITLE = "lom-agent control API"
RUN_TITLE = "lom-agent control API of a run"
MAC = "UDID, serial number or number of a Mac"


class Query(msgspec.Struct, frozen=True):
    """One query parameter."""

    name: str
    kind: Any
    """Its type, which msgspec converts from text."""
    help: str
    default: Any = None


class Route(msgspec.Struct, frozen=True):
    """One request. ``name`` is the method of the API that answers it, and the operationId."""

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Parts in angle brackets are parameters."""
    help: str
    body: Any = None
    answer: Any = None
    """The type of the answer; None: 204 without a body."""
    status: int = 200
    query: Sequence[Query] = ()
    problems: Sequence[int] = msgspec.field(default=(400, 401))
    media: str = "application/json"


_LIMIT = Query("limit", Limit, "At most this many, the last ones.", 100)
_OF = Query("mac", str | None, f"Only those of this Mac ({MAC}).")

ROUTES: tuple[Route, ...] = (
    Route("info", "GET", "/v1", "The service: version, seed, counts, lab, gateway.", answer=ServiceInfo),
    Route(
        "macs",
        "GET",
        "/v1/macs",
        "The Macs, by number.",
        answer=list[Mac],
        query=(
            Query("state", MacState | None, "Only Macs in this state."),
            Query("segment", Count | None, "Only Macs of this segment."),
            Query("role", Role | None, "Only Macs with this role."),
            Query("os", str | None, "Only Macs with this release, or major version, of macOS."),
            Query("enrolled", bool | None, "true: only enrolled Macs; false: only the others."),
            Query("text", str | None, "Only Macs with this text in the UDID, serial number, name or model."),
            Query("after", After, "Only Macs with a higher number.", -1),
            Query("limit", Limit, "At most this many.", 1000),
        ),
    ),
    Route(
        "add_macs",
        "POST",
        "/v1/macs",
        "Add Macs in new segments.",
        body=AddMacs,
        answer=list[Mac],
        status=201,
        problems=(400, 401, 409, 503),
    ),
    Route("remove_macs", "DELETE", "/v1/macs", "Remove every Mac, without a CheckOut."),
    Route("mac", "GET", "/v1/macs/<mac>", "One Mac.", answer=MacDetail, problems=(401, 404, 503)),
    Route("remove_mac", "DELETE", "/v1/macs/<mac>", "Remove a Mac, without a CheckOut.", problems=(401, 404, 503)),
    Route(
        "enroll",
        "POST",
        "/v1/macs/<mac>/enroll",
        "Enroll a Mac. Answers when it is enrolled. 409: the Mac could not (it is off or offline), or a fault rule hit "
        "the enrollment; 502: the server refused it or failed; 504: it took longer than `timeout`.",
        body=Enroll,
        answer=Mac,
        problems=(400, 401, 404, 409, 502, 503, 504),
    ),
    Route(
        "unenroll",
        "POST",
        "/v1/macs/<mac>/unenroll",
        "Unenroll a Mac, as its user can: the profile is removed, and CheckOut is sent if the profile asks for it.",
        answer=Mac,
        problems=(401, 404, 409, 503),
    ),
    Route(
        "connect",
        "POST",
        "/v1/macs/<mac>/connect",
        "Open a session with the server now, as after a push.",
        answer=Mac,
        problems=(401, 404, 409, 503),
    ),
    Route(
        "power",
        "POST",
        "/v1/macs/<mac>/power",
        "Press the power button of a Mac, or cut or restore its mains.",
        body=Power,
        answer=Mac,
        problems=(400, 401, 404, 409, 503),
    ),
    Route(
        "network",
        "POST",
        "/v1/macs/<mac>/network",
        "Disconnect a Mac from every network, or reconnect it.",
        body=Network,
        answer=Mac,
        problems=(400, 401, 404, 503),
    ),
    Route(
        "reset_mac",
        "POST",
        "/v1/macs/<mac>/reset",
        "Reset a Mac to the state in which it was added: not enrolled, powered on, without exchanges.",
        answer=Mac,
        problems=(401, 404, 503),
    ),
    Route(
        "answers",
        "GET",
        "/v1/macs/<mac>/answers",
        "The answers of a Mac to commands, oldest first.",
        answer=list[Answer],
        query=(Query("command_uuid", str | None, "Only answers to this command."), _LIMIT),
        problems=(401, 404, 503),
    ),
    Route(
        "wait_state",
        "POST",
        "/v1/macs/<mac>/wait",
        "Wait until a Mac has these properties.",
        body=WaitState,
        answer=Mac,
        problems=(400, 401, 404, 503, 504),
    ),
    Route(
        "lom_profile",
        "GET",
        "/v1/macs/<mac>/lom-profile",
        "A configuration profile with a com.apple.lom payload for this Mac. A CA of this service issues its "
        "identities. Install such a profile on every Mac of a segment, so that their Controller can reach them.",
        answer=bytes,
        media="application/x-apple-aspen-config",
        problems=(401, 404, 503),
    ),
    Route(
        "mains",
        "POST",
        "/v1/segments/<segment>/mains",
        "Cut or restore the mains of a whole segment.",
        body=Mains,
        answer=list[Mac],
        problems=(400, 401, 404, 503),
    ),
    Route("rules", "GET", "/v1/rules", "The rules, with their matches and hits.", answer=list[RuleCounts]),
    Route("add_rule", "POST", "/v1/rules", "Add a rule.", body=Rule, answer=Rule, status=201, problems=(400, 401, 409)),
    Route("remove_rules", "DELETE", "/v1/rules", "Remove every rule."),
    Route("rule", "GET", "/v1/rules/<rule>", "One rule.", answer=RuleCounts, problems=(401, 404)),
    Route("remove_rule", "DELETE", "/v1/rules/<rule>", "Remove a rule.", problems=(401, 404)),
    Route(
        "exchanges",
        "GET",
        "/v1/exchanges",
        "The last exchanges, oldest first.",
        answer=list[Exchange],
        query=(
            _OF,
            Query("kind", str | None, "Only exchanges of this kind."),
            Query("text", str | None, "Only exchanges with this text in a body, the URL or the error."),
            Query("after", After, "Only exchanges with a higher number.", -1),
            _LIMIT,
        ),
        problems=(400, 401, 404, 503),
    ),
    Route(
        "clear_exchanges",
        "DELETE",
        "/v1/exchanges",
        "Delete the recorded exchanges.",
        query=(_OF,),
        problems=(401, 404, 503),
    ),
    Route(
        "events",
        "GET",
        "/v1/events",
        "A stream of the events with a higher number than `after`, and then of new ones as they happen, as server-sent "
        "events.",
        answer=Event,
        query=(
            _OF,
            Query("kind", EventKind | None, "Only events of this kind."),
            Query("after", After | None, "Only events with a higher number; without it only new ones."),
        ),
        media="text/event-stream",
        problems=(400, 401, 404),
    ),
    Route(
        "wait",
        "POST",
        "/v1/wait",
        "Wait for an event. 504 after the timeout, with the best matching events and the last exchanges of the Mac.",
        body=Wait,
        answer=Event,
        problems=(400, 401, 503, 504),
    ),
    Route("results", "GET", "/v1/results", "The results of the operations so far.", answer=Results),
    Route("clock", "GET", "/v1/clock", "The state of the clock of the Macs.", answer=ClockState),
    Route(
        "advance_clock",
        "POST",
        "/v1/clock",
        "Advance the manual clock. Timers that become due run in order.",
        body=AdvanceClock,
        answer=ClockState,
        problems=(400, 401, 409),
    ),
    Route(
        "reset",
        "POST",
        "/v1/reset",
        "Reset Macs, rules, exchanges, events, results and clock to their state after the start.",
        body=Reset,
        answer=ServiceInfo,
    ),
)
