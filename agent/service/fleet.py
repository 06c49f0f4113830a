"""The Macs of ``lom-agent serve``: added and removed while it runs, controlled by hand, watched.

Each request that adds Macs makes a group (`agent.service.macs.groups`). All groups share the clock of the Macs, the
rules, the log of exchanges, the events and the metrics. The control API (`agent.service.api.control`) is one user of
this class.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent import __version__
from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.load.machine.limits import allow_open_files
from agent.measure.exchanges import HTTPExchange
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.free_memory import FreeMemory
from agent.net.timing import Reactor, RunClock
from agent.pki.issuing.authorities import Authorities
from agent.service.errors import NoSuchMac, not_a_mac, not_manual, seed_in_use, without_gateway
from agent.service.events import EventLog
from agent.service.macs.actions import Actions
from agent.service.macs.clocks import MacClock, ManualClock
from agent.service.macs.defaults import EnrollmentDefaults
from agent.service.macs.enrolling import Enrollments
from agent.service.macs.groups import Group, Groups, MacHandle
from agent.service.macs.judge import ServerJudge
from agent.service.macs.measurements import Measurements
from agent.service.macs.parts import MacParts, ServiceSettings
from agent.service.macs.records import Records
from agent.service.macs.views import exchange_view, mac_detail, mac_view
from agent.service.macs.waiting import until
from agent.service.macs.watcher import Watcher
from agent.service.types import (
    AddMacs,
    Answer,
    APNsInfo,
    ClockState,
    Exchange,
    LabInfo,
    Mac,
    MacDetail,
    PendingResult,
    Results,
    ServiceInfo,
    WaitState,
)

if TYPE_CHECKING:
    from agent.push.wire import RoutedAnswer, RoutedPush
    from agent.service.restoring import Continuing
    from agent.state.fleet import FleetState, StoredGroup

MAKE_IDLE_FROM = 2000  # Macs: with fewer, their memory is not worth the work
MAKE_IDLE_SECONDS = 0.05
_log = Logger()


class FleetService:
    """The Macs. ``events``, ``faults`` and ``groups`` are for reading, ``actions`` is what is done to one Mac.

    ``lab`` and ``apns`` describe the embedded servers. ``on_warning`` is called with each text that the
    operator should read, once.
    """

    def __init__(
        self,
        reactor: Any,
        settings: ServiceSettings,
        authorities: Authorities | None = None,
        on_warning: Callable[[str], None] = lambda _text: None,
        state: FleetState | None = None,
    ) -> None:
        self._state = state
        if state is not None:
            from agent.service.restoring import settings_with  # only where it is asked for: a fast start

            settings = settings_with(state, settings)
        self._records = Records(RunClock(reactor), lambda rule: self.faults.excuses(rule))
        self.events: EventLog = self._records.events
        self.groups = Groups()
        self.lab: LabInfo | None = None
        self.apns: APNsInfo | None = None
        self.on_reset: Callable[[], object] = lambda: None
        self.on_lost: Callable[[int], object] = lambda _worker: None  # never: there are no workers
        self.on_push_answer: Callable[[int, RoutedAnswer], object] = lambda _owner, _answer: None
        self._reactor: Reactor = reactor
        self._settings = settings
        self._measured = Measurements(reactor, self._clients, self._gauges)
        self.parts = MacParts(
            reactor,
            settings,
            ended=lambda operation: self._judge.ended(operation),
            exchanged=self._exchanged,
            warn=on_warning,
            measured=self._measured,
            state=state,
        )
        self.faults: Faults = self.parts.faults
        self._watchers: dict[Group, Watcher] = {}
        self._enrollments = Enrollments(reactor, self.parts.stalls)
        self._judge = ServerJudge(self._records, self.groups, self._watchers, self._enrollments)
        defaults = EnrollmentDefaults(settings, authorities, lambda: self.lab)
        self.actions = Actions(self._records, self._enrollments, self._judge, defaults, authorities)
        self._continuing: Continuing | None = None
        self._requests = 0  # to add Macs, since the last reset
        self._seed = settings.seed  # of the Macs that they add
        self._since = self.parts.clock.seconds()
        self._free_memory = FreeMemory()
        self._idle_loop = LoopingCall(self._make_idle)
        self._idle_loop.clock = reactor
        self._poll = LoopingCall(self._poll_all)
        self._poll.clock = reactor
        self._closed = False

    # Macs.

    def open(self) -> None:
        """Make the Macs of the start, or those of the state file. Raises OperatorError."""
        self.parts.stalls.begin()
        if self._state is None:
            self._add_start()
        else:
            self._open_with(self._state)
        if self._settings.poll:
            self._poll.start(self._settings.poll, now=False).addErrback(_defect)

    def info(self) -> ServiceInfo:
        """The service."""
        return ServiceInfo(
            version=__version__,
            seed=self._seed,
            macs=len(self.groups),
            enrolled=sum(client.enrolled for client in self._clients()),
            rules=len(self.faults),
            last_event=self.events.last,
            protocol_errors=self.events.protocol_errors,
            clock=self.parts.clock.kind,
            lab=self.lab,
            apns=self.apns,
            state_file=None if self._state is None else str(self._state.path),
            pid=os.getpid(),
        )

    def macs(self) -> Iterator[MacHandle]:
        """Every Mac, by number."""
        return self.groups.macs()

    def find(self, text: str) -> MacHandle:
        """The Mac with this UDID, serial number or number. Raises NoSuchMac."""
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
        handle = self.groups.named(text) if number is None else self.groups.at(number)
        if handle is None:
            raise not_a_mac(text)
        return handle

    def segment(self, number: int) -> list[MacHandle]:
        """The Macs of a segment; none where there is no such segment."""
        return self.groups.segment(number)

    def view(self, handle: MacHandle) -> Mac:
        """One Mac as a list shows it."""
        return mac_view(handle)

    def detail(self, handle: MacHandle) -> MacDetail:
        """One Mac with what is installed on it and its last exchanges."""
        undelivered = handle.client.undelivered
        pending = None
        if undelivered is not None:
            command = undelivered.command
            pending = PendingResult(
                command_uuid=command.uuid, request_type=command.request_type, status=undelivered.status.value
            )
        last_error = self._records.last_errors.get(handle.udid, "")
        return mac_detail(handle, pending, last_error, self.exchanges(handle, None, None, -1, 100))

    def add(self, what: AddMacs) -> list[MacHandle]:
        """Add Macs in new segments. Raises OperatorError."""
        self._requests += 1
        seed = what.seed if what.seed is not None else f"{self._seed}/{self._requests}"
        size = what.segment_size or what.count
        return self._add(Population(seed, what.count, size, os=what.os, model=what.model, roles=what.roles))

    def remove(self, handle: MacHandle) -> None:
        """Remove a Mac, without a CheckOut."""
        group = handle.group
        self._let_go(handle)
        self._tell_removed(handle)
        group.fleet.remove(handle.index)
        self._forget(handle.udid)
        if self._state is not None:
            self._state.remove_mac(group.first, handle.index)
        if not len(group):
            self._close_group(group)

    def remove_all(self) -> None:
        """Remove every Mac, without a CheckOut. Their exchanges are forgotten at once, not for each Mac."""
        for group in self.groups:
            for handle in group:
                self._let_go(handle)
                self._tell_removed(handle)
            self._close_group(group)
        self.parts.exchanges.clear()
        self._records.forget_all()

    def reset_mac(self, handle: MacHandle) -> None:
        """Put a Mac back into its state when it was added."""
        mac = handle.mac
        self._let_go(handle)
        watcher = self._watchers[handle.group]
        watcher.forget(handle.index)
        handle.group.fleet.renew(handle.index).observer = watcher
        if self._state is not None:
            self._state.reset_mac(handle.group.first, handle.index)
        self._forget(mac.udid)
        self.events.add("reset", f"{mac.device_name} is as it was when it was added.", udid=mac.udid)

    def reset(self, seed: str | None = None) -> None:
        """Put everything back into the state after the start. The numbers of events and exchanges go on.

        ``seed`` is that of the Macs that requests add from now on; None is the one of the start.
        """
        self._close_groups()
        self.groups.clear()
        self.faults.clear()
        self.parts.exchanges.clear()
        self._records.clear()
        self.parts.operations.cut_short("the service was reset")
        self._measured.reset()
        self._requests = 0
        self._seed = self._settings.seed if seed is None else seed
        self._since = self.parts.clock.seconds()
        self.on_reset()
        self._add_start()
        self._save_numbers()
        self.events.add("reset", "The service is as it was after its start.")

    def wait_state(self, handle: MacHandle, wanted: WaitState) -> Deferred[Mac]:
        """Wait until a Mac has these properties. Fails with TimedOut, and NoSuchMac where it is removed meanwhile."""

        def look() -> Mac:
            if handle.removed:
                raise NoSuchMac("Expected a Mac of this service, found that it was removed meanwhile.")
            return mac_view(handle)

        return Deferred.fromCoroutine(until(self._reactor, look, wanted, self.events, handle.udid))

    # Rules and records.

    def add_rule(self, rule: Rule) -> Rule:
        """Add a fault rule; its times count from now. Raises OperatorError."""
        if rule.on == "push" and self._settings.push is None:
            raise without_gateway()
        return self.faults.add(rule, self.parts.clock.seconds())

    def answers(self, handle: MacHandle, command_uuid: str | None, limit: int) -> list[Answer]:
        """What a Mac answered, oldest first."""
        return self._records.answers.of(handle.udid, command_uuid, limit)

    def exchanges(
        self, handle: MacHandle | None, kind: str | None, text: str | None, after: int, limit: int
    ) -> list[Exchange]:
        """The last exchanges, oldest first."""
        udid = None if handle is None else handle.udid
        found = self.parts.exchanges.search(text or "", udid=udid, kind=kind, after=after, limit=limit)
        return [exchange_view(exchange) for exchange in found]

    def clear_exchanges(self, handle: MacHandle | None) -> None:
        """Forget the exchanges."""
        self.parts.exchanges.clear(None if handle is None else handle.udid)

    def results(self) -> Results:
        """The operations since the start or the last reset."""
        return self._measured.results()

    # The gateway beside the Macs.

    @property
    def tokens(self) -> Groups:
        """Looks up push tokens."""
        return self.groups

    @property
    def clock(self) -> MacClock:
        """The clock of the Macs."""
        return self.parts.clock

    def owner_of(self, number: int) -> int:
        """What stands for the push endpoint of this Mac."""
        return self.groups.first_of(number)

    def push(self, owner: int, push: RoutedPush) -> None:
        """Have the push endpoint that ``owner_of`` named decide on a push; its answer goes to ``on_push_answer``."""
        group = self.groups.with_first(owner)
        if group is not None and group.push_endpoint is not None:
            self.on_push_answer(owner, group.push_endpoint.receive(push))

    def live(self) -> Any:
        """The present state, for Prometheus."""
        return self._measured.live()

    def clock_state(self) -> ClockState:
        """The clock of the Macs."""
        clock = self.parts.clock
        seconds = clock.seconds() - self._since
        return ClockState(kind=clock.kind, seconds=seconds, pending=clock.pending, next=clock.next)

    def advance(self, seconds: float) -> ClockState:
        """Move the manual clock. Raises Conflict where the clock is the real one."""
        clock = self.parts.clock
        if not isinstance(clock, ManualClock):
            raise not_manual()
        clock.advance(seconds)
        return self.clock_state()

    def close(self) -> None:
        """Stop every Mac and close everything. The state file then has the Macs as they were before."""
        self._closed = True
        if self._continuing is not None:
            self._continuing.close()
        if self._state is not None:
            self._state.close()
        if self._poll.running:
            self._poll.stop()
        self._close_groups()
        self._measured.close()
        self.parts.close()

    # Parts.

    def _add_start(self) -> None:
        settings = self._settings
        if settings.devices:
            size = settings.segment_size or settings.devices
            self._add(Population(settings.seed, settings.devices, size, os=settings.os, model=settings.model))

    def _add(self, population: Population) -> list[MacHandle]:
        if self.groups.has_seed(population.seed):
            raise seed_in_use(population.seed)
        return self._add_group(population, self.groups.next_number, self.groups.next_segment)

    def _add_group(
        self, population: Population, first: int, first_segment: int, indexes: range | None = None
    ) -> list[MacHandle]:
        allow_open_files(len(self.groups) + len(population if indexes is None else indexes))
        group, _watcher = self._open_group(population, first, first_segment, indexes)
        if self._state is not None:
            self._state.add_group(group)
            self._save_numbers()
        handles = list(group)
        for handle in handles:
            mac = handle.mac
            self.events.add("added", f"{mac.device_name} is added.", udid=mac.udid)
        return handles

    def _open_group(
        self, population: Population, first: int, first_segment: int, indexes: range | None = None
    ) -> tuple[Group, Watcher]:
        group = self.parts.group(population, first, first_segment, indexes)
        watcher = Watcher(group, self._records)
        group.open(watcher)
        self.groups.add(group)
        self._watchers[group] = watcher
        if len(self.groups) >= MAKE_IDLE_FROM and not self._idle_loop.running:
            self._idle_loop.start(MAKE_IDLE_SECONDS, now=False).addErrback(_defect)
        return group, watcher

    # The state file.

    def _open_with(self, state: FleetState) -> None:
        """Make the Macs and rules of the file; in a new file, the Macs of the start."""
        from agent.service.restoring import Continuing, restore_macs  # only where it is asked for: a fast start
        from agent.state.rules import keep_rules

        clock, exchanges = self.parts.clock, self.parts.exchanges
        numbers = state.numbers()
        self.events.continue_after(numbers.event)
        exchanges.continue_after(numbers.exchange)
        self.events.subscribe(lambda event: state.number("event", event.number))
        for record in state.rules():
            self.faults.restore(record, clock.seconds())
        keep_rules(self.parts.faults, state, clock)
        if numbers.macs is None:
            self._add_start()
            self._save_numbers()
            return
        self._requests, self._seed = numbers.requests, numbers.seed or self._seed

        def make(stored: StoredGroup) -> tuple[Group, Watcher]:
            population = stored.population
            indexes = self._indexes_of(stored)
            allow_open_files(len(self.groups) + len(population if indexes is None else indexes))
            return self._open_group(population, stored.first, stored.first_segment, indexes)

        many = sum(stored.devices for stored in state.groups()) >= MAKE_IDLE_FROM
        restored = restore_macs(state, make, idle=many)
        self.groups.next_number, self.groups.next_segment = numbers.macs, numbers.segments
        self._continuing = Continuing(self._reactor, self._enrollments, self._judge.enroll_failed)
        self._continuing.begin(restored)

    def _indexes_of(self, stored: StoredGroup) -> range | None:
        """The Macs of a group of the file that are in this process; None: all."""
        del stored
        return None

    def _save_numbers(self) -> None:
        if self._state is not None:
            numbers = {"macs": self.groups.next_number, "segments": self.groups.next_segment}
            for name, value in {**numbers, "requests": self._requests, "seed": self._seed}.items():
                self._state.set(name, str(value))

    def _close_groups(self) -> None:
        for group in self.groups:
            for handle in group:
                self._let_go(handle)
            self._close_group(group)

    def _close_group(self, group: Group) -> None:
        self.groups.remove(group)
        del self._watchers[group]
        group.close()
        if self._state is not None and not self._closed:
            self._state.remove_group(group)
        if self._idle_loop.running and len(self.groups) < MAKE_IDLE_FROM:
            self._idle_loop.stop()

    def _let_go(self, handle: MacHandle) -> None:
        """Nothing more is heard of this Mac, and its enrollment in progress ends."""
        if handle.client.is_untouched:
            return
        handle.client.observer = None
        self._enrollments.cancel(handle.udid)

    def _tell_removed(self, handle: MacHandle) -> None:
        mac = handle.mac
        self.events.add("removed", f"{mac.device_name} is removed.", udid=mac.udid)

    def _forget(self, udid: str) -> None:
        self.parts.exchanges.clear(udid)
        self._records.forget(udid)

    def _clients(self) -> Iterator[MDMClient]:
        return (client for group in self.groups for client in group.fleet.made())

    def _gauges(self) -> dict[str, int]:
        endpoints = [group.push_endpoint for group in self.groups]
        waiting = sum(int(each.counts["waiting"]) for each in endpoints if each is not None)
        return {"connections": self.parts.connections, "pushes_waiting": waiting}

    def _poll_all(self) -> None:
        """Have every enrolled Mac without an open session open one."""
        for client in self._clients():
            if client.enrolled and client.open_session is None:
                client.wake()

    def _exchanged(self, exchange: HTTPExchange) -> None:
        if self._state is not None:
            self._state.number("exchange", exchange.number)
        self._records.exchanged(exchange)

    def _make_idle(self) -> None:
        made_idle = sum(group.fleet.make_idle() for group in self.groups)
        self._free_memory.look(self.parts.closed_connections, made_idle)


def _defect(failure: Failure) -> None:
    _log.failure("the Macs of the service could not be made idle", failure)
