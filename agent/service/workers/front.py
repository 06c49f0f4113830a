"""The front of a service in several processes: it knows which worker has which Mac, and has what is for all of them.

Rules count for each Mac by itself, so every worker has all rules, and the sums of their counts are those of the rules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import structs
from msgspec.structs import replace
from twisted.internet.defer import DeferredLock
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from agent.errors import OperatorError
from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.measure.live import LiveView, Recent
from agent.net.timing import Clock, RunClock
from agent.push.wire import RoutedAnswer, RoutedPush
from agent.service.errors import WorkerGone, not_a_mac, seed_in_use, without_gateway
from agent.service.events import EventLog
from agent.service.macs.clocks import MacClock, ManualClock, RealClock
from agent.service.macs.parts import ServiceSettings
from agent.service.types import AddMacs, APNsInfo, Event, LabInfo, Mac
from agent.service.workers.messages import Happened, Share, Start
from agent.service.workers.pool import PoolWorker, WorkerPool
from agent.service.workers.roster import Place, Roster, SharedGroup, divided, spread
from agent.state.rules import KeptFaults

if TYPE_CHECKING:
    from agent.state.fleet import FleetState

ResultT = TypeVar("ResultT")


class Front:
    """The front. ``events``, ``faults``, ``roster`` and ``pool`` are for reading.

    ``on_warning`` is called with texts for the operator, ``on_failure`` when a state file cannot be written.
    """

    def __init__(
        self,
        reactor: Any,
        settings: ServiceSettings,
        on_warning: Callable[[str], object],
        state: FleetState | None = None,
    ) -> None:
        self.state = state
        if state is not None:
            from agent.service.restoring import settings_with  # only where it is asked for: a fast start

            settings = settings_with(state, settings)
        self.events = EventLog(RunClock(reactor))
        self.faults = KeptFaults()
        self.clock: MacClock = ManualClock(reactor) if settings.manual_clock else RealClock(reactor)
        self.roster = Roster()
        self.pool = WorkerPool(reactor, self)
        self.lab: LabInfo | None = None
        self.apns: APNsInfo | None = None
        self.on_reset: Callable[[], object] = lambda: None
        self.on_failure: Callable[[OperatorError], object] = lambda _error: None
        self.on_lost: Callable[[int], object] = lambda _worker: None
        self.on_push_answer: Callable[[int, RoutedAnswer], object] = lambda _worker, _answer: None
        self.settings = settings
        self.seed = settings.seed
        self.since = self.clock.seconds()
        self.began: float = reactor.seconds()
        self.warned = on_warning
        self._reactor: Clock = reactor
        self._requests = 0
        self._lock = DeferredLock()
        self._exchange = 0  # the last number
        self._recent: Recent | None = None
        self._turns = LoopingCall(self._turn)
        self._turns.clock = reactor
        self._removed: dict[int, set[int]] = {}  # Macs by the first number of their group
        self._closed = False

    # The Macs.

    async def open(self, starts: list[Start]) -> None:
        """Start the workers and make the Macs of the start, or those of the state file. Raises OperatorError."""
        state = self.state
        is_new, fleet = state is None or state.numbers().macs is None, ""
        if state is not None and is_new:  # a start that is broken off here goes on with as many
            state.set("workers", str(len(starts)))
            state.flush()
        self.pool.start(starts)
        if state is not None:
            from agent.service.workers.files import fleet_of  # only where it is asked for: a fast start

            fleet = fleet_of(state)
            self._continue(state)
        for worker in self.pool.workers:
            shares = [group.shares[worker.number] for group in self.roster if worker.number in group.shares]
            rules = [each.rule for each in self.faults]
            made = {"shares": shares, "rules": rules, "fleet": fleet, "is_new": is_new}
            answer = msgspec.json.decode(await self.pool.call(worker, "open", **made))
            worker.last_exchange = answer["exchange"]
            for first, indexes in answer["removed"].items():
                self._removed.setdefault(int(first), set()).update(indexes)
        if is_new:
            await self._add_start()
            self._save()

    async def close(self) -> None:
        """End the workers."""
        self._closed = True
        if self._turns.running:
            self._turns.stop()
        await self.pool.close()
        if self.state is not None:
            self.state.close()

    async def alone(self, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Do something that changes which Macs and rules there are: one after the other."""
        await self._lock.acquire()
        try:
            return await work()
        finally:
            self._lock.release()

    def find(self, text: str) -> Place:
        """The Mac with this UDID, serial number or number. Raises NoSuchMac."""
        place = self.roster.find(text)
        if self.is_removed(place.group, place.index):
            raise not_a_mac(text)
        return place

    async def add(self, what: AddMacs) -> list[Mac]:
        """Add Macs in new segments. Raises OperatorError."""
        self._requests += 1
        seed = what.seed if what.seed is not None else f"{self.seed}/{self._requests}"
        size = what.segment_size or what.count
        population = Population(seed, what.count, size, os=what.os, model=what.model, roles=what.roles)
        return await self._add(population, shown=True)

    def enroll_start(self) -> None:
        """Have each worker begin to enroll its Macs that are not enrolled."""
        for worker in self.pool.present:
            self.pool.call(worker, "enroll_start").addErrback(_ignore_gone)

    def is_removed(self, group: SharedGroup, index: int) -> bool:
        """Whether a Mac was removed."""
        return index in self._removed.get(group.first, ())

    def removed(self, group: SharedGroup, index: int) -> None:
        """A Mac was removed. A worker without Macs of a group has no share of it any more."""
        removed = self._removed.setdefault(group.first, set())
        removed.add(index)
        worker = group.worker_of(index)
        share = None if worker is None else group.shares[worker]
        if worker is not None and share is not None and removed.issuperset(range(share.start, share.stop)):
            del group.shares[worker]
            if not group.shares:
                self.roster.remove(group)
            self._save()

    def removed_all(self) -> None:
        """Every Mac was removed."""
        self.roster.remove_all()
        self._removed.clear()
        self._save()

    async def reset(self, seed: str | None) -> None:
        """Put everything back into the state after the start."""
        self.roster.clear()
        self._removed.clear()
        self.faults.clear()
        await self.pool.call_all("reset", body={"seed": None})
        self.events.clear()
        self._requests = 0
        self.seed = self.settings.seed if seed is None else seed
        self.since = self.clock.seconds()
        self.began = self._reactor.seconds()
        self._recent = None
        self.on_reset()
        await self._add_start()
        self._save()
        self.events.add("reset", "The service is as it was after its start.")

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a fault rule in every worker; its times count from now. Raises OperatorError."""
        if rule.on == "push" and self.settings.push is None:
            raise without_gateway()
        rule = self.faults.add(rule, self.clock.seconds())
        await self.pool.call_all("follow_rule", rule=rule)
        return rule

    async def live(self) -> LiveView:
        """The present state, for Prometheus. Rates and percentiles are measured from the first call on."""
        recent = self._recent
        if recent is None:
            recent = self._recent = Recent()
            for worker, row in (await self.pool.call_all("first_row")).items():
                recent.add(worker.number, msgspec.json.decode(row))
            recent.turn()
            if not self._turns.running and not self._closed:
                self._turns.start(1.0, now=False)
        view = recent.view(self._reactor.seconds() - self.began, ())
        return replace(view, workers={str(worker.number): not worker.lost for worker in self.pool.workers})

    # The gateway beside the Macs.

    @property
    def tokens(self) -> Front:
        """Looks up push tokens."""
        return self

    def index_of_token(self, token: bytes) -> int | None:
        """The number of the Mac with this push token; None for an unknown token."""
        for group in self.roster:
            index = group.population.index_of_token(token)
            if index is not None and group.worker_of(index) is not None and not self.is_removed(group, index):
                return group.first + index
        return None

    def owner_of(self, number: int) -> int:
        """The number of the worker that has this Mac."""
        place = self.roster.at(number)
        return 0 if place is None else place.worker

    def push(self, owner: int, push: RoutedPush) -> None:
        """Have a worker decide on a push; its answer goes to ``on_push_answer``."""
        link = self.pool.worker(owner).link
        if link is not None:
            link.send(push)

    # What the workers tell.

    def happened(self, worker: PoolWorker, message: Happened) -> None:
        """Number what happened."""
        if message.exchange > worker.last_exchange:
            count = message.exchange - worker.last_exchange
            worker.exchanges.add(worker.last_exchange + 1, self._exchange + 1, count)
            worker.last_exchange = message.exchange
            self._exchange += count
            if self.state is not None:
                self.state.number("exchange", self._exchange)
        for event in msgspec.json.decode(message.events, type=list[Event]):
            if event.kind == "reset" and not event.udid:
                continue  # the front tells of a reset once, when all workers have done it
            worker.events.add(event.number, self.events.last + 1)
            exchange = event.data.get("exchange")
            if event.kind == "rule_hit" and exchange is not None:
                event = structs.replace(event, data={**event.data, "exchange": worker.exchanges.of_front(exchange)})
            self.events.take(event)

    def counted(self, worker: PoolWorker, row: Mapping[str, Any]) -> None:
        """A second is over."""
        if self._recent is not None:
            self._recent.add(worker.number, row)

    def push_answered(self, worker: PoolWorker, answer: RoutedAnswer) -> None:
        """A push endpoint has decided."""
        self.on_push_answer(worker.number, answer)

    def worker_lost(self, worker: PoolWorker) -> None:
        """A worker has ended by itself."""
        if self._recent is not None:
            self._recent.lose(worker.number)
        text = self.lost_text(worker)
        data = {"worker": worker.number, "macs": self._macs_of(worker), "error": worker.lost}
        self.events.add("worker_lost", text, data=data)
        self.warned(text)
        self.on_lost(worker.number)

    def broken(self, error: OperatorError) -> None:
        """The state file of a worker cannot be written."""
        self.on_failure(error)

    def lost_text(self, worker: PoolWorker) -> str:
        """What was lost with a worker, for people."""
        return f"Worker {worker.number} is lost, with the Macs {self._macs_of(worker)}: {worker.lost}."

    # Parts.

    def _macs_of(self, worker: PoolWorker) -> str:
        return spread([group.shares[worker.number] for group in self.roster if worker.number in group.shares])

    async def _add_start(self) -> None:
        settings = self.settings
        if settings.devices:
            size = settings.segment_size or settings.devices
            await self._add(Population(settings.seed, settings.devices, size, os=settings.os, model=settings.model))

    async def _add(self, population: Population, *, shown: bool = False) -> list[Mac]:
        if self.roster.has_seed(population.seed):
            raise seed_in_use(population.seed)
        loads = {worker.number: self.roster.count_of(worker.number) for worker in self.pool.present}
        if not loads:
            raise WorkerGone("Expected a worker for the Macs, found that all have ended. Start lom-agent serve again.")
        first = self.roster.next_number
        shares = divided(population, first, self.roster.next_segment, loads)
        group = SharedGroup(shares)
        self.roster.add(group)  # its events come before the answer
        added: list[Mac] = []
        try:
            for number, share in shares.items():
                octets = await self.pool.call(self.pool.worker(number), "add_share", share=share, shown=shown)
                added += msgspec.json.decode(octets, type=list[Mac] | None) or []
        except OperatorError:
            self.roster.remove(group)
            await self.pool.call_all("remove_share", first=first)
            raise
        self._save()
        return sorted(added, key=lambda mac: mac.number)

    def _turn(self) -> None:
        if self._recent is not None:
            self._recent.turn()

    # The state file.

    def _continue(self, state: FleetState) -> None:
        from agent.state.rules import keep_rules

        numbers = state.numbers()
        self.events.continue_after(numbers.event)
        self._exchange = numbers.exchange
        self.events.subscribe(lambda event: state.number("event", event.number))
        for record in state.rules():
            self.faults.restore(record, self.clock.seconds())
        keep_rules(self.faults, state, self.clock)
        kept = state.setting("shares")
        if kept is not None:
            for shares in state.reading(lambda: msgspec.json.decode(kept, type=list[dict[int, Share]])):
                self.roster.add(SharedGroup(shares))
        if numbers.macs is not None:
            self.roster.next_number, self.roster.next_segment = numbers.macs, numbers.segments
            self._requests, self.seed = numbers.requests, numbers.seed or self.seed

    def _save(self) -> None:
        state = self.state
        if state is None:
            return
        shares = [group.shares for group in self.roster]
        numbers = {"macs": self.roster.next_number, "segments": self.roster.next_segment, "requests": self._requests}
        values = {name: str(value) for name, value in numbers.items()}
        values |= {"seed": self.seed, "shares": msgspec.json.encode(shares).decode()}
        for name, value in values.items():
            state.set(name, value)
        state.flush()


def _ignore_gone(failure: Failure) -> None:
    failure.trap(WorkerGone)  # type: ignore[no-untyped-call]  # the loss is told elsewhere
