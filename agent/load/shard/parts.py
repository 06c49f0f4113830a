"""Builds one shard: its Macs, their LOM network, keys, push endpoint, the server's API, metrics and trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import maybeDeferred

from agent.faults.decisions import Faults
from agent.fleet.derivation import Derivation
from agent.fleet.population import Mac
from agent.load.machine.limits import allow_open_files, cores
from agent.load.machine.memory import memory_of_worker
from agent.load.phases.context import Enroll, OwnRefusal, PhaseContext
from agent.load.phases.phase_time import PausedTime
from agent.load.phases.run import Part
from agent.load.phases.waits import MacWaits
from agent.load.shard.keys import expect_keys
from agent.load.shard.plan import EnrollAt, EnrollAutomatically, ShardPlan, server_config
from agent.load.shard.restoring import KeptMacs, RestoredShard
from agent.load.shard.state import ShardState
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment, Operations
from agent.measure.summaries import RuleSummary
from agent.measure.trace import TraceFile, several
from agent.net.http.connection import alpn_of
from agent.net.lom.networks import INTERFACE, make_network, parse_network
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.free_memory import FreeMemory
from agent.net.mac.fleet.keys import KeyPool, parse_keys
from agent.net.mac.fleet.macs import Fleet, FleetBehaviour
from agent.net.mac.fleet.push_endpoint import fleet_push_endpoint
from agent.net.timing import RunClock, Stalls
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.certificates import own_certificate
from agent.pki.issuing.device_ca import read_device_ca
from agent.pki.mdm_signatures import Signatures
from agent.servers.opening import open_server
from agent.state.rules import KeptFaults, keep_rules


class ShardParts:
    """The parts of one shard, created but not open. Raises OperatorError if a part cannot be created."""

    def __init__(
        self,
        reactor: Any,
        plan: ShardPlan,
        warn: Callable[[str], None],
        own_refusal: OwnRefusal,
        state: ShardState | None = None,
    ) -> None:
        scenario = plan.scenario
        self._state = state
        on_interface = parse_network(scenario.lom.network).kind == INTERFACE  # each Mac has a listening socket
        allow_open_files(plan.stop - plan.first, 2 if on_interface else 1)
        self.metrics = Metrics()
        self.clock = RunClock(reactor)
        self._trace = None if plan.trace is None else TraceFile(plan.trace)
        observer = self.metrics if self._trace is None else several(self.metrics, self._trace)
        self.stalls = Stalls(reactor)
        self.operations = Operations(reactor, observer, started=self.metrics.started, wall_clock=self.clock)
        self._network = make_network(scenario.lom.network, reactor, self.operations, race=scenario.lom.dial == "race")
        shared = parse_keys(scenario.server.keys)
        own = None if shared is None else max(1, shared // plan.shards)
        self.keys = KeyPool(
            reactor, own, processes=plan.cores or cores(), on_wait=lambda seconds: self.metrics.stage("key", seconds)
        )
        self._contexts = TLSContexts(system_anchors=not plan.lab_anchors_only, short_keys=True)
        resolver = Resolver(reactor, reactor.nameResolver)
        self.faults = None
        if scenario.rules:
            self.faults = Faults() if state is None else KeptFaults()
        self.environment = Environment(
            reactor=reactor,
            clock=reactor,
            resolver=resolver,
            contexts=self._contexts,
            network=self._network,
            keys=self.keys,
            operations=self.operations,
            anchors=tuple(own_certificate(anchor) for anchor in plan.anchors),
            insecure=scenario.server.insecure,
            on_warning=warn,
            stage=self.metrics.stage,
            connected=self.metrics.connected,
            alpn=alpn_of(scenario.server.http),
            tls_floor=scenario.tls.floor,
            resume=scenario.tls.resume,
            wall_clock=self.clock,
            faults=self.faults,
            keeper=None if state is None else state.fleet.keeper(0),
            signatures=Signatures(scenario.mdm_signature.reuse),
        )
        population = scenario.fleet.population
        indexes = range(plan.first, plan.stop)
        behaviour = FleetBehaviour.of(scenario.fleet)
        if plan.elapsed:
            behaviour = replace(behaviour, not_now_for=max(0.0, behaviour.not_now_for - plan.elapsed))
        memory = memory_of_worker(scenario.load.memory, plan.shards if plan.cores else 1)  # or alone on its machine
        self.fleet = Fleet(population, self.environment, behaviour, indexes, memory)
        self._free_memory = FreeMemory()
        self.push_endpoint = None
        if plan.push is not None:
            self.push_endpoint = fleet_push_endpoint(self.fleet, self.environment, plan.push)
        self._server = None
        if plan.server is not None:
            self._server = open_server(server_config(plan.server), reactor, resolver, self._mac)
        self.context = PhaseContext(
            environment=self.environment,
            fleet=self.fleet,
            metrics=self.metrics,
            mac_waits=MacWaits(reactor, self.stalls),
            enroll=_enroll_of(plan),
            time=PausedTime(reactor),
            controlled=plan.controlled,
            server=self._server,
            own_refusal=None if self.push_endpoint is None else own_refusal,
            longest_boot=behaviour.boot.draw(lambda: 1.0) + behaviour.shutdown.draw(lambda: 1.0),
            retries=scenario.server.retries,
        )
        if state is not None:
            self.context.setups.update(state.setups())
            self.context.on_setup = state.set_up
            self.context.kept_authorities = state.authorities
        source = Derivation(scenario.fleet.seed)
        self.part = Part(population, source, indexes, plan.shard, plan.shards, scenario.load)
        self._plan = plan
        self._restored = RestoredShard(self.fleet)

    def _mac(self, udid: str) -> Mac:
        return self.fleet.of_udid(udid).device.mac

    @property
    def connections(self) -> int:
        """The number of open connections to the server."""
        return self._contexts.open_connections

    @property
    def pushes_waiting(self) -> int:
        """The number of pushes stored for Macs that are not connected."""
        return 0 if self.push_endpoint is None else int(self.push_endpoint.counts["waiting"])

    @property
    def push_counts(self) -> dict[str, Any] | None:
        """The push counts of this shard, None without a gateway."""
        return None if self.push_endpoint is None else self.push_endpoint.counts

    def open(self) -> None:
        """Open the LOM network and the push endpoint, and start making keys. Raises OperatorError."""
        self._network.listen()
        self.stalls.begin()
        if self.push_endpoint is not None:
            self.push_endpoint.open()
        enrolled = 0
        if self._state is not None:
            enrolled = self._restored.restore(self._state.fleet, KeptMacs(self.fleet, self.push_endpoint))
        expect_keys(self.keys, self._plan, self.part, enrolled)

    def begin(self, now: float) -> None:
        """The run begins, or goes on, at ``now`` on its own clock: fault rules count their times from here."""
        state, seconds = self._state, self.environment.reactor.seconds()
        if self.faults is not None:
            records = [] if state is None else state.fleet.rules()
            for record in records:
                self.faults.restore(record, seconds)
            for rule in () if records else self._plan.scenario.rules:
                self.faults.add(rule, seconds)
        if state is not None:
            if isinstance(self.faults, KeptFaults):
                keep_rules(self.faults, state.fleet, self.environment.clock)
            state.continue_metrics(self.metrics, now - self._plan.elapsed)
            self._restored.carry_on()

    def pause(self, date: float) -> None:
        """Start nothing from this date of the run's clock on."""
        ticks = self._ticks(date)
        self.context.time.pause(ticks)
        self._at(ticks, self.metrics.pause)

    def resume(self, date: float) -> None:
        """Go on at this date of the run's clock."""
        ticks = self._ticks(date)
        self.context.time.resume(ticks)
        self._at(ticks, self.metrics.resume)

    def _at(self, ticks: float, act: Callable[[], None]) -> None:
        reactor = self.environment.reactor
        reactor.callLater(max(0.0, ticks - reactor.seconds()), act)

    def _ticks(self, date: float) -> float:
        return self.environment.reactor.seconds() + date - self.clock()

    @property
    def rule_counts(self) -> list[RuleSummary]:
        """What each fault rule did in this shard."""
        return [RuleSummary(each.rule.id, each.matches, each.hits) for each in self.faults or ()]

    def make_idle(self) -> None:
        """Serialise the Macs that are beyond the memory, and give free memory back; called every 50 ms."""
        made_idle = self.fleet.keep_within_memory()
        self._free_memory.look(self._contexts.closed_connections, made_idle)

    def flush(self) -> None:
        """Flush the trace to the operating system; called every second."""
        if self._trace is not None:
            self._trace.flush()

    async def close(self, reason: str) -> None:
        """Close everything; operations in progress are cut short with this reason. The trace is complete afterwards."""
        self.stalls.stop()
        self.context.mac_waits.close()
        self.operations.cut_short(reason)
        if self.push_endpoint is not None:
            self.push_endpoint.close()
        if self._server is not None:
            self._server.close()
        self.fleet.close()
        await maybeDeferred(self._network.close)
        self.keys.close()
        self.operations.cut_short(reason)  # what started in the meantime
        if self._trace is not None:
            self._trace.close()


def _enroll_of(plan: ShardPlan) -> Enroll:
    """The function that enrolls a Mac as the plan says."""
    enroll = plan.enroll
    if isinstance(enroll, EnrollAt):
        url = enroll.url

        async def enroll_at(client: MDMClient, due: Moment, seconds: float) -> None:
            await client.enroll_at(url, due, seconds)

        return enroll_at
    if isinstance(enroll, EnrollAutomatically):
        automated, authority = enroll, read_device_ca(enroll.ca, "the shard's plan")

        async def enroll_automatically(client: MDMClient, due: Moment, seconds: float) -> None:
            await client.enroll_automatically(automated.url, authority, due, seconds, awaiting=automated.awaiting)

        return enroll_automatically
    profile = enroll.profile

    async def fetch() -> bytes:
        return profile

    async def enroll_with(client: MDMClient, due: Moment, seconds: float) -> None:
        await client.enroll(fetch, due, seconds)

    return enroll_with
