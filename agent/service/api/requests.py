"""What each request of `agent.service.api.routes` does: one method a route, with its parameters as arguments.

A method returns the answer, or an awaitable of it. Errors become problem details in `agent.service.api.problems`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent.errors import LomAgentError, OperatorError, PeerError
from agent.faults.decisions import Faults, RuleCounts
from agent.faults.rules import Rule
from agent.net.timing import Clock, sleep
from agent.service.api.problems import RequestFailed
from agent.service.api.streams import EventStream
from agent.service.errors import Conflict, NoSuchMac, not_a_rule, not_a_segment
from agent.service.events import EventLog, TimedOut
from agent.service.types import (
    AddMacs,
    AdvanceClock,
    Answer,
    ClockState,
    Enroll,
    Event,
    Exchange,
    Mac,
    MacDetail,
    Mains,
    Network,
    Power,
    Reset,
    Results,
    ServiceInfo,
    Wait,
    WaitState,
)

LAST_EXCHANGES = 10  # that a problem has; ours
MACS_A_TURN = 500  # that are looked at before other work has its turn; ours

_log = Logger()

ValueT = TypeVar("ValueT")


class Actions(Protocol):
    """What is done to one Mac: `agent.service.macs.actions.Actions`."""

    def enroll(self, handle: Any, how: Enroll) -> Coroutine[Any, Any, object]: ...
    def unenroll(self, handle: Any) -> object: ...
    def connect(self, handle: Any) -> object: ...
    def power(self, handle: Any, action: Any) -> object: ...
    def set_online(self, handle: Any, online: bool) -> object: ...
    def lom_profile(self, handle: Any) -> bytes: ...


class Service(Protocol):
    """The Macs of the service: `agent.service.fleet.FleetService`. A handle stands for one Mac."""

    faults: Faults
    events: EventLog

    @property
    def actions(self) -> Actions: ...

    def info(self) -> ServiceInfo: ...
    def find(self, text: str) -> Any: ...
    def macs(self) -> Iterator[Any]: ...
    def view(self, handle: Any) -> Mac: ...
    def detail(self, handle: Any) -> MacDetail: ...
    def add(self, what: AddMacs) -> list[Any]: ...
    def remove(self, handle: Any) -> object: ...
    def remove_all(self) -> object: ...
    def reset_mac(self, handle: Any) -> object: ...
    def answers(self, handle: Any, command_uuid: str | None, limit: int) -> list[Answer]: ...
    def segment(self, number: int) -> list[Any]: ...
    def add_rule(self, rule: Rule) -> Rule: ...
    def exchanges(self, handle: Any, kind: str | None, text: str | None, after: int, limit: int) -> list[Exchange]: ...
    def clear_exchanges(self, handle: Any) -> object: ...
    def wait_state(self, handle: Any, wait: WaitState) -> Deferred[Mac]: ...
    def results(self) -> Results: ...
    def clock_state(self) -> ClockState: ...
    def advance(self, seconds: float) -> ClockState: ...
    def reset(self, seed: str | None = None) -> object: ...
    def live(self) -> Any: ...


class API:
    """The requests. ``clock`` is the reactor: waits end by it, whatever clock the Macs have."""

    def __init__(self, service: Service, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    # The service.

    def info(self) -> ServiceInfo:
        return self._service.info()

    def results(self) -> Results:
        return self._service.results()

    def clock(self) -> ClockState:
        return self._service.clock_state()

    def advance_clock(self, body: AdvanceClock) -> ClockState:
        return self._service.advance(body.advance)

    def reset(self, body: Reset) -> ServiceInfo:
        self._service.reset(body.seed)
        return self._service.info()

    # Macs.

    async def macs(self, after: int, limit: int, **wanted: Any) -> list[Mac]:
        """The Macs, a part of them in each turn of the reactor: there may be 100,000."""
        found: list[Mac] = []
        for looked_at, handle in enumerate(list(self._service.macs()), 1):
            if len(found) >= limit:
                break
            if handle.number > after and _is_wanted(mac := self._service.view(handle), **wanted):
                found.append(mac)
            if looked_at % MACS_A_TURN == 0:
                await sleep(self._clock, 0)
        return found

    def add_macs(self, body: AddMacs) -> list[Mac]:
        return [self._service.view(handle) for handle in self._service.add(body)]

    def remove_macs(self) -> None:
        self._service.remove_all()

    def mac(self, mac: str) -> MacDetail:
        return self._service.detail(self._service.find(mac))

    def remove_mac(self, mac: str) -> None:
        self._service.remove(self._service.find(mac))

    async def enroll(self, mac: str, body: Enroll) -> Mac:
        """Enroll a Mac. It goes on where the client leaves, to its end or its time limit."""
        handle = self._service.find(mac)
        try:
            await shielded(self._service.actions.enroll(handle, body))
        except (PeerError, TimedOut, Conflict) as error:
            timed_out = isinstance(error, TimedOut) or (isinstance(error, PeerError) and error.timed_out)
            status = 409 if isinstance(error, Conflict) else 504 if timed_out else 502
            raise RequestFailed(status, str(error), exchanges=self._last_exchanges(handle)) from error
        return self._service.view(handle)

    def unenroll(self, mac: str) -> Mac:
        return self._changed(mac, self._service.actions.unenroll)

    def connect(self, mac: str) -> Mac:
        return self._changed(mac, self._service.actions.connect)

    def power(self, mac: str, body: Power) -> Mac:
        return self._changed(mac, lambda handle: self._service.actions.power(handle, body.action))

    def network(self, mac: str, body: Network) -> Mac:
        return self._changed(mac, lambda handle: self._service.actions.set_online(handle, body.online))

    def reset_mac(self, mac: str) -> Mac:
        return self._changed(mac, self._service.reset_mac)

    def answers(self, mac: str, command_uuid: str | None, limit: int) -> list[Answer]:
        return self._service.answers(self._service.find(mac), command_uuid, limit)

    def lom_profile(self, mac: str) -> bytes:
        return self._service.actions.lom_profile(self._service.find(mac))

    def mains(self, segment: str, body: Mains) -> list[Mac]:
        handles = self._service.segment(int(segment)) if segment.isascii() and segment.isdigit() else []
        if not handles:
            raise not_a_segment(segment)
        for handle in handles:
            self._service.actions.power(handle, body.action)
        return [self._service.view(handle) for handle in handles]

    # Rules.

    def rules(self) -> list[RuleCounts]:
        return list(self._service.faults)

    def add_rule(self, body: Rule) -> Rule:
        try:
            return self._service.add_rule(body)
        except OperatorError as error:  # an id in use, or too many rules
            raise Conflict(str(error)) from error

    def remove_rules(self) -> None:
        self._service.faults.clear()

    def rule(self, rule: str) -> RuleCounts:
        for counts in self._service.faults:
            if counts.rule.id == rule:
                return counts
        raise not_a_rule(rule)

    def remove_rule(self, rule: str) -> None:
        self._service.faults.remove(self.rule(rule).rule.id)

    # What happened.

    def exchanges(self, mac: str | None, kind: str | None, text: str | None, after: int, limit: int) -> list[Exchange]:
        return self._service.exchanges(self._handle(mac), kind, text, after, limit)

    def clear_exchanges(self, mac: str | None) -> None:
        self._service.clear_exchanges(self._handle(mac))

    def events(self, mac: str | None, kind: str | None, after: int | None) -> EventStream:
        udid = None if mac is None else self._service.view(self._service.find(mac)).udid

        def match(event: Event) -> bool:
            return (udid is None or event.udid == udid) and (kind is None or event.kind == kind)

        log = self._service.events
        return EventStream(log, match, log.last if after is None else after, self._clock)

    async def wait(self, body: Wait) -> Event:
        try:
            return await self._service.events.wait(body, self._clock)
        except TimedOut as error:
            raise RequestFailed(
                504, str(error), nearest=error.nearest, exchanges=self._last_exchanges_of(body.udid)
            ) from error

    async def wait_state(self, mac: str, body: WaitState) -> Mac:
        handle = self._service.find(mac)
        try:
            return await self._service.wait_state(handle, body)
        except TimedOut as error:
            raise RequestFailed(
                504, str(error), nearest=error.nearest, exchanges=self._last_exchanges(handle)
            ) from error

    # Parts.

    def _handle(self, mac: str | None) -> Any:
        return None if mac is None else self._service.find(mac)

    def _changed(self, mac: str, change: Callable[[Any], object]) -> Mac:
        handle = self._service.find(mac)
        change(handle)
        return self._service.view(handle)

    def _last_exchanges(self, handle: Any) -> list[Exchange]:
        return self._service.exchanges(handle, None, None, -1, LAST_EXCHANGES)

    def _last_exchanges_of(self, udid: str | None) -> list[Exchange]:
        try:
            return [] if udid is None else self._last_exchanges(self._service.find(udid))
        except NoSuchMac:
            return []


def _is_wanted(
    mac: Mac,
    state: str | None,
    segment: int | None,
    role: str | None,
    os: str | None,
    enrolled: bool | None,
    text: str | None,
) -> bool:
    return (
        (state is None or mac.state == state)
        and (segment is None or mac.segment == segment)
        and (role is None or role in mac.roles)
        and (os is None or f"{mac.os_version}.".startswith(f"{os}."))
        and (enrolled is None or mac.enrolled == enrolled)
        and (text is None or any(text.casefold() in each.casefold() for each in _texts(mac)))
    )


def _texts(mac: Mac) -> tuple[str, ...]:
    return mac.udid, mac.serial_number, mac.name, mac.model


def shielded(work: Coroutine[Any, Any, ValueT]) -> Deferred[ValueT]:
    """A Deferred of its result. Cancelling it ends the wait only: the work goes on."""
    waiting: Deferred[ValueT] = Deferred()

    def end(result: ValueT | Failure) -> None:
        if not waiting.called:
            waiting.callback(result)  # a Failure goes to the errbacks
        elif isinstance(result, Failure) and not isinstance(result.value, LomAgentError):
            _log.failure("A request whose client has left failed", result)  # other errors are in the events of the Mac

    Deferred.fromCoroutine(work).addBoth(end)
    return waiting
