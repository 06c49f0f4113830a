"""What each request of the control API does in a service of several processes: as `agent.service.api.requests`.

A request about one Mac goes to its worker, any other to all of them, whose answers are merged.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import structs
from twisted.internet.defer import CancelledError, Deferred

from agent import __version__
from agent.errors import OperatorError
from agent.faults.decisions import RuleCounts
from agent.faults.rules import Rule
from agent.measure.metrics import Metrics
from agent.net.timing import Clock
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import lom_profile
from agent.service.api.control import HOST, APIServer
from agent.service.api.problems import RequestFailed
from agent.service.api.requests import LAST_EXCHANGES, shielded
from agent.service.api.routes import FLEET_TITLE, ROUTES
from agent.service.api.streams import EventStream
from agent.service.errors import Conflict, NoSuchMac, WorkerGone, not_a_rule, not_a_segment, not_manual
from agent.service.events import TimedOut
from agent.service.macs.clocks import ManualClock
from agent.service.macs.measurements import results_of
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
from agent.service.workers.front import Front
from agent.service.workers.pool import PoolWorker, gone_text
from agent.service.workers.roster import Place

AnswerT = TypeVar("AnswerT")


class FrontServer(APIServer):
    """Serves the control API of a service of several processes."""

    def __init__(
        self,
        reactor: Any,
        front: Front,
        authorities: Authorities | None,
        host: str = HOST,
        port: int = 0,
        *,
        token: str,
    ) -> None:
        api = FrontAPI(front, reactor, authorities)
        super().__init__(reactor, api, ROUTES, front.live, (host, port), token=token, title=FLEET_TITLE, page=True)


class FrontAPI:
    """The requests. ``clock`` is the reactor; ``authorities`` issue LOM profiles, None: those of a new CA."""

    def __init__(self, front: Front, clock: Clock, authorities: Authorities | None) -> None:
        self._front = front
        self._pool = front.pool
        self._clock = clock
        self._authorities = authorities

    # The service.

    async def info(self) -> ServiceInfo:
        """The service: the sums of the workers. Their events that happened before have arrived with the answers."""
        front, state = self._front, self._front.state
        answers = await self._all("info", ServiceInfo)
        return ServiceInfo(
            version=__version__,
            seed=front.seed,
            macs=sum(info.macs for _, info in answers),
            enrolled=sum(info.enrolled for _, info in answers),
            rules=len(front.faults),
            last_event=front.events.last,
            protocol_errors=front.events.protocol_errors,
            clock=front.clock.kind,
            lab=front.lab,
            apns=front.apns,
            state_file=None if state is None else str(state.path),
            pid=os.getpid(),
            workers=len(self._pool.workers),
            lost_workers=[front.lost_text(worker) for worker in self._pool.workers if worker.lost],
        )

    async def results(self) -> Results:
        """The operations of all workers."""
        metrics = Metrics()
        for _, snapshot in await self._all("measurements", dict[str, Any]):
            metrics.merge(snapshot)
        return results_of(metrics, self._clock.seconds() - self._front.began)

    async def clock(self) -> ClockState:
        """The clock: the same in every worker."""
        return self._clock_of([state for _, state in await self._all("clock", ClockState)])

    async def advance_clock(self, body: AdvanceClock) -> ClockState:
        """Move the clock in every worker; what is due in one of them runs in order."""
        clock = self._front.clock
        if not isinstance(clock, ManualClock):
            raise not_manual()
        manual = clock

        async def advance() -> ClockState:
            moved = await self._all("advance_clock", ClockState, body=body)
            manual.advance(body.advance)
            return self._clock_of([state for _, state in moved])

        return await self._alone(advance)

    async def reset(self, body: Reset) -> ServiceInfo:
        """Reset every worker."""
        await self._alone(lambda: self._front.reset(body.seed))
        return await self.info()

    # Macs.

    async def macs(self, after: int, limit: int, **wanted: Any) -> list[Mac]:
        """The Macs of all workers, by number."""
        answers = await self._all("macs", list[Mac], after=after, limit=limit, **wanted)
        return sorted((mac for _, macs in answers for mac in macs), key=lambda mac: mac.number)[:limit]

    async def add_macs(self, body: AddMacs) -> list[Mac]:
        """Add Macs: whole segments to each worker."""
        return await self._alone(lambda: self._front.add(body))

    async def remove_macs(self) -> None:
        """Remove every Mac."""

        async def remove() -> None:
            await self._pool.call_all("remove_macs")
            self._front.removed_all()

        await self._alone(remove)

    async def mac(self, mac: str) -> MacDetail:
        """One Mac."""
        worker, found = await self._of("mac", MacDetail, mac)
        detail: MacDetail = found
        return structs.replace(detail, exchanges=_numbered(worker, detail.exchanges))

    async def remove_mac(self, mac: str) -> None:
        """Remove a Mac."""

        async def remove() -> None:
            place = self._front.find(mac)
            await self._ask(place, "remove_mac", None)
            self._front.removed(place.group, place.index)

        await self._alone(remove)

    async def enroll(self, mac: str, body: Enroll) -> Mac:
        """Enroll a Mac, with the lab's profile where there is no other."""
        front = self._front
        if not body.url and not body.profile and not front.settings.enroll and front.lab is not None:
            automated = front.settings.automated if body.automated is None else body.automated
            body = structs.replace(body, url=front.lab.automated_url if automated else front.lab.enroll_url)
        return await self._changed("enroll", mac, body=body)

    async def unenroll(self, mac: str) -> Mac:
        """Unenroll a Mac."""
        return await self._changed("unenroll", mac)

    async def connect(self, mac: str) -> Mac:
        """Open a session."""
        return await self._changed("connect", mac)

    async def power(self, mac: str, body: Power) -> Mac:
        """Press the power button, or cut or restore the mains."""
        return await self._changed("power", mac, body=body)

    async def network(self, mac: str, body: Network) -> Mac:
        """Disconnect a Mac, or reconnect it."""
        return await self._changed("network", mac, body=body)

    async def reset_mac(self, mac: str) -> Mac:
        """Reset a Mac."""
        return await self._changed("reset_mac", mac)

    async def answers(self, mac: str, command_uuid: str | None, limit: int) -> list[Answer]:
        """What a Mac answered."""
        worker, found = await self._of("answers", list[Answer], mac, command_uuid=command_uuid, limit=limit)
        return [structs.replace(answer, number=worker.events.of_front(answer.number)) for answer in found]

    async def wait_state(self, mac: str, body: WaitState) -> Mac:
        """Wait for properties of a Mac."""
        return await self._changed("wait_state", mac, body=body)

    def lom_profile(self, mac: str) -> bytes:
        """A LOM profile: the CAs are those of the front, the same for all Macs."""
        wanted = self._front.find(mac).mac
        if self._authorities is None:
            self._authorities = Authorities()
        roles = {role: role in wanted.roles for role in ("device", "controller")}
        return lom_profile(self._authorities, wanted.dns_name, **roles)

    async def mains(self, segment: str, body: Mains) -> list[Mac]:
        """Cut or restore the mains of a segment, which is in one worker."""
        number = int(segment) if segment.isascii() and segment.isdigit() else -1
        worker = self._front.roster.worker_of_segment(number)
        if worker is None:
            raise not_a_segment(segment)
        octets = await self._pool.call(self._pool.worker(worker), "mains", segment=segment, body=body)
        return msgspec.json.decode(octets, type=list[Mac])

    # Rules.

    async def rules(self) -> list[RuleCounts]:
        """The rules, with the sums of their counts."""
        answers = await self._all("rules", list[RuleCounts])
        counts = [{each.rule.id: each for each in found} for _, found in answers]
        return [
            self._summed([own, *(found[own.rule.id] for found in counts if own.rule.id in found)])
            for own in self._front.faults
        ]

    async def add_rule(self, body: Rule) -> Rule:
        """Add a rule to every worker."""
        try:
            return await self._alone(lambda: self._front.add_rule(body))
        except WorkerGone:
            raise
        except OperatorError as error:  # an id in use, or too many rules
            raise Conflict(str(error)) from error

    async def remove_rules(self) -> None:
        """Remove every rule."""

        async def remove() -> None:
            self._front.faults.clear()
            await self._pool.call_all("remove_rules")

        await self._alone(remove)

    async def rule(self, rule: str) -> RuleCounts:
        """One rule."""
        for counts in await self.rules():
            if counts.rule.id == rule:
                return counts
        raise not_a_rule(rule)

    async def remove_rule(self, rule: str) -> None:
        """Remove a rule."""

        async def remove() -> None:
            if all(each.rule.id != rule for each in self._front.faults):
                raise not_a_rule(rule)
            self._front.faults.remove(rule)
            await self._pool.call_all("remove_rule", rule=rule)

        await self._alone(remove)

    # What happened.

    async def exchanges(
        self, mac: str | None, kind: str | None, text: str | None, after: int, limit: int
    ) -> list[Exchange]:
        """The last exchanges of a Mac, or of all."""
        place = None if mac is None else self._front.find(mac)
        workers = self._pool.present if place is None else [self._pool.worker(place.worker)]
        asked = [
            self._pool.call(
                worker,
                "exchanges",
                mac=None if place is None else str(place.number),
                kind=kind,
                text=text,
                after=worker.exchanges.last_of_worker(after),
                limit=limit,
            )
            for worker in workers
        ]
        found: list[Exchange] = []
        for worker, answer in zip(workers, asked, strict=True):
            try:
                octets = await answer
            except WorkerGone:
                if place is not None:
                    raise
                continue
            found += _numbered(worker, msgspec.json.decode(octets, type=list[Exchange]))
        found.sort(key=lambda exchange: exchange.number)
        return found[max(0, len(found) - limit) :]

    async def clear_exchanges(self, mac: str | None) -> None:
        """Forget exchanges."""
        if mac is None:
            await self._pool.call_all("clear_exchanges", mac=None)
        else:
            await self._of("clear_exchanges", None, mac)

    def events(self, mac: str | None, kind: str | None, after: int | None) -> EventStream:
        """The events of all workers, as they arrive here."""
        udid = None if mac is None else self._front.find(mac).mac.udid

        def match(event: Event) -> bool:
            return (udid is None or event.udid == udid) and (kind is None or event.kind == kind)

        log = self._front.events
        return EventStream(log, match, log.last if after is None else after, self._clock)

    async def wait(self, body: Wait) -> Event:
        """Wait for an event."""
        worker = self._worker_of(body.udid)
        if body.timeout <= 0:
            await self._pool.call_all("sync")  # whatever has happened has arrived
        if worker is not None and worker.lost:
            body = structs.replace(body, timeout=0.0)  # nothing comes from there any more
        found = self._front.events.wait(body, self._clock)

        def look(_: Event) -> None:
            if worker is not None and worker.lost:
                found.cancel()

        unsubscribe = self._front.events.subscribe(look)
        found.addBoth(lambda outcome: unsubscribe() or outcome)
        try:
            return await found
        except (TimedOut, CancelledError) as error:
            if worker is not None and worker.lost:
                raise WorkerGone(gone_text(worker)) from error
            if isinstance(error, CancelledError):
                raise
            exchanges = await self._last_exchanges(body.udid)
            raise RequestFailed(504, str(error), nearest=error.nearest, exchanges=exchanges) from error

    # Parts.

    async def _all(self, name: str, kind: Any, **arguments: Any) -> list[tuple[PoolWorker, Any]]:
        answers = await self._pool.call_all(name, **arguments)
        return [(worker, msgspec.json.decode(octets, type=kind)) for worker, octets in answers.items()]

    async def _of(self, name: str, kind: Any, mac: str, **arguments: Any) -> tuple[PoolWorker, Any]:
        """Ask the worker of a Mac."""
        return await self._ask(self._front.find(mac), name, kind, **arguments)

    async def _ask(self, place: Place, name: str, kind: Any, **arguments: Any) -> tuple[PoolWorker, Any]:
        worker = self._pool.worker(place.worker)
        try:
            octets = await self._pool.call(worker, name, mac=str(place.number), **arguments)
        except RequestFailed as failed:
            failed.exchanges = _numbered(worker, failed.exchanges)
            raise
        return worker, msgspec.json.decode(octets, type=kind)

    async def _changed(self, name: str, mac: str, **arguments: Any) -> Mac:
        _, changed = await self._of(name, Mac, mac, **arguments)
        return changed  # type: ignore[no-any-return]

    def _alone(self, work: Callable[[], Awaitable[AnswerT]]) -> Deferred[AnswerT]:
        """A change of what there is; it is carried out where the client leaves, too."""
        return shielded(self._front.alone(work))

    def _worker_of(self, udid: str | None) -> PoolWorker | None:
        try:
            return None if udid is None else self._pool.worker(self._front.find(udid).worker)
        except NoSuchMac:
            return None

    async def _last_exchanges(self, udid: str | None) -> list[Exchange]:
        try:
            return [] if udid is None else await self.exchanges(udid, None, None, -1, LAST_EXCHANGES)
        except (NoSuchMac, WorkerGone):
            return []

    def _clock_of(self, states: list[ClockState]) -> ClockState:
        own = self._front.clock
        nexts = [each for each in (own.next, *(state.next for state in states)) if each is not None]
        return ClockState(
            kind=own.kind,
            seconds=own.seconds() - self._front.since,
            pending=own.pending + sum(state.pending for state in states),
            next=min(nexts, default=None),
        )

    def _summed(self, counts: list[RuleCounts]) -> RuleCounts:
        """A rule over all processes."""
        rule = counts[0].rule
        passed = self._front.faults.record(rule.id, self._front.clock.seconds()).passed
        matched = [each for each in counts if each.matches]
        return RuleCounts(
            rule=rule,
            matches=sum(each.matches for each in counts),
            hits=sum(each.hits for each in counts),
            exhausted=(rule.until is not None and passed >= rule.until)
            or (bool(matched) and all(each.exhausted for each in matched)),
        )


def _numbered(worker: PoolWorker, exchanges: Iterable[Exchange]) -> list[Exchange]:
    """The exchanges of a worker with the numbers of the front."""
    return [structs.replace(each, number=worker.exchanges.of_front(each.number)) for each in exchanges]
