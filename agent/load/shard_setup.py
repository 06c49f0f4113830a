"""What one shard is made of: its Macs, their LOM network, keys, push desk, the server's API, metrics and trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred

from agent.errors import PeerError
from agent.fleet.derivation import Derivation
from agent.fleet.population import Mac, Population
from agent.load.machine import allow_open_files
from agent.load.phases.context import Enrol, PhaseContext
from agent.load.phases.run import Part
from agent.load.phases.waits import Watcher
from agent.load.shard_plan import EnrolAt, ShardPlan, server_config
from agent.measure.metrics import Metrics
from agent.measure.operations import Operations
from agent.measure.trace import TraceFile, several
from agent.net.lom.networks import INTERFACE, make_network, parse_network
from agent.net.mac.client import MDMClient
from agent.net.mac.environment import Environment, Moment
from agent.net.mac.fleet import Fleet, FleetBehaviour
from agent.net.mac.fleet_push import fleet_push_endpoint
from agent.net.mac.keys import KeyPool, parse_keys
from agent.net.timing import RunClock, Stalls
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.certificates import own_certificate
from agent.profiles.profile import read_profile
from agent.profiles.scep import SCEP, scep_of
from agent.scenario.targets import chosen_macs
from agent.scenario.types import EnrollPhase
from agent.servers.opening import open_server

SCEP_KEY_BITS = 2048  # of the lab's SCEP payload, and ours for a profile of which it is only known that it is SCEP
KEYS_AHEAD_SECONDS = 10.0  # ours: that a run waits for its first RSA keys before it begins


class ShardParts:
    """Everything of one shard, made but not open. Raises OperatorError where a part cannot be made."""

    def __init__(self, reactor: Any, plan: ShardPlan, note: Callable[[str], None]) -> None:
        scenario = plan.scenario
        on_interface = parse_network(scenario.lom.network).kind == INTERFACE  # where each Mac listens
        allow_open_files(plan.stop - plan.first, 2 if on_interface else 1)
        self.metrics = Metrics()
        self.clock = RunClock(reactor)
        self._trace = None if plan.trace is None else TraceFile(plan.trace)
        observer = self.metrics if self._trace is None else several(self.metrics, self._trace)
        self._stalls = Stalls(reactor)
        self.operations = Operations(reactor, observer, begun=self.metrics.begun, wall_clock=self.clock)
        self._network = make_network(scenario.lom.network, reactor, self.operations)
        shared = parse_keys(scenario.server.keys)
        own = None if shared is None else max(1, shared // plan.shards)
        self.keys = KeyPool(
            reactor, own, processes=plan.cores, on_wait=lambda seconds: self.metrics.stage("key", seconds)
        )
        self._contexts = TLSContexts(system_anchors=not plan.lab_anchors_only, short_keys=True)
        resolver = Resolver(reactor, reactor.nameResolver)
        self.environment = Environment(
            reactor=reactor,
            resolver=resolver,
            contexts=self._contexts,
            network=self._network,
            keys=self.keys,
            operations=self.operations,
            anchors=tuple(own_certificate(anchor) for anchor in plan.anchors),
            insecure=scenario.server.insecure,
            on_warning=lambda text: note(f"Warning: {text}"),
            stage=self.metrics.stage,
            resume=scenario.tls.resume,
            wall_clock=self.clock,
        )
        population = Population(scenario.fleet.seed, scenario.fleet.devices, scenario.fleet.segment_size)
        indexes = range(plan.first, plan.stop)
        behaviour = FleetBehaviour.of(scenario.fleet)
        self.fleet = Fleet(population, self.environment, behaviour, indexes)
        self.push_endpoint = None
        if plan.push is not None:
            self.push_endpoint = fleet_push_endpoint(self.fleet, self.environment, plan.push, began=plan.push_began)
        self._server = None
        if plan.server is not None:
            self._server = open_server(server_config(plan.server), reactor, resolver, self._mac)
        self.context = PhaseContext(
            environment=self.environment,
            fleet=self.fleet,
            metrics=self.metrics,
            watcher=Watcher(reactor, self._stalls),
            enrol=_enrol_of(plan),
            server=self._server,
            pushed=self.push_endpoint is not None,
            longest_boot=behaviour.boot.draw(lambda: 1.0) + behaviour.shutdown.draw(lambda: 1.0),
            retries=scenario.server.retries,
        )
        source = Derivation(scenario.fleet.seed)
        self.part = Part(population, source, indexes, plan.shard, plan.shards, scenario.load)
        self._phases = scenario.phases
        self._key_sizes = key_sizes(plan)

    def _mac(self, udid: str) -> Mac:
        return self.fleet.of_udid(udid).device.mac

    @property
    def connections(self) -> int:
        """How many connections to the server are open."""
        return self._contexts.open_connections

    @property
    def pushes_waiting(self) -> int:
        """How many notifications wait for Macs that are away."""
        return 0 if self.push_endpoint is None else int(self.push_endpoint.counts["waiting"])

    @property
    def push_counts(self) -> dict[str, Any] | None:
        """What became of the pushes."""
        return None if self.push_endpoint is None else self.push_endpoint.counts

    def open(self) -> None:
        """Let LOM Devices be reached and pushes be delivered. Raises OperatorError."""
        self._network.listen()
        self._stalls.begin()
        if self.push_endpoint is not None:
            self.push_endpoint.open()
        enrolments = sum(
            len(self.part.places(chosen_macs(phase, self.part.population)))
            for phase in self._phases
            if isinstance(phase, EnrollPhase)
        )
        for bits in self._key_sizes:
            self.keys.expect(enrolments, bits)

    async def keys_ahead(self, finished: Deferred[None]) -> None:
        """Wait for the RSA keys that were begun ahead: ten seconds at the most, and no longer than for ``finished``."""
        made = Deferred.fromCoroutine(self.keys.made_ahead())
        made.addTimeout(KEYS_AHEAD_SECONDS, self.environment.reactor, lambda _outcome, _seconds: None)  # type: ignore[arg-type]
        await DeferredList([made, finished], fireOnOneCallback=True)
        made.addErrback(lambda _: None).cancel()

    def rest(self) -> None:
        """Make some quiet Macs idle; called every 50 ms."""
        self.fleet.rest()

    def flush(self) -> None:
        """Hand the trace so far to the system; called every second."""
        if self._trace is not None:
            self._trace.flush()

    async def close(self, reason: str) -> None:
        """Close everything; what was under way is cut short for this reason. The trace is whole afterwards."""
        self._stalls.stop()
        self.context.watcher.close()
        self.operations.cut_short(reason)
        if self.push_endpoint is not None:
            self.push_endpoint.close()
        if self._server is not None:
            self._server.close()
        self.fleet.close()
        await maybeDeferred(self._network.close)
        self.keys.close()
        self.operations.cut_short(reason)  # what began meanwhile
        if self._trace is not None:
            self._trace.close()


def key_sizes(plan: ShardPlan) -> list[int | None]:
    """Of each identity that an enrolment takes by SCEP the bits of its key, None where the first profile will say."""
    if isinstance(plan.enrol, EnrolAt):
        if plan.scenario.server.identity == "scep":
            return [SCEP_KEY_BITS]
        return [] if plan.lab_anchors_only else [None]
    try:
        payloads = read_profile(plan.enrol.profile).payloads
        return [scep_of(payload).key_size for payload in payloads if payload.payload_type == SCEP]
    except PeerError:  # the Macs will say what is wrong with it
        return []


def _enrol_of(plan: ShardPlan) -> Enrol:
    """How a Mac enrols."""
    enrol = plan.enrol
    if isinstance(enrol, EnrolAt):
        url = enrol.url

        async def enrol_at(client: MDMClient, due: Moment) -> None:
            await client.enroll_at(url, due)

        return enrol_at
    profile = enrol.profile

    async def fetch() -> bytes:
        return profile

    async def enrol_with(client: MDMClient, due: Moment) -> None:
        await client.enroll(fetch, due)

    return enrol_with
