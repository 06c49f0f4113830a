"""The Macs of one process: each made from the seed when it is first asked for, laid down while it is at nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.device.mac import Device
from agent.device.packed import IdleStore
from agent.fleet.chance import Chance
from agent.fleet.durations import Duration, Durations, Uniform
from agent.fleet.population import NoSuchMacError, Population
from agent.lom.link import LIMITS
from agent.lom.power import DEFAULT_CHOICES, PowerChoices
from agent.mdm.session import DEFAULT_TIMING, REFUSED_RETRIES, Timing
from agent.net.mac.client import MDMClient
from agent.net.mac.environment import Environment
from agent.net.mac.push import GatewaySide
from agent.net.timing import Clock

# A real Mac takes half a minute; a first look at the tool should not.
BOOT = Uniform(1.0, 3.0)
SHUTDOWN = Uniform(0.2, 1.0)
# Of one call, in Macs: together about 20 ms.
RESTS_AT_ONCE = 200
LOOKS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class FleetBehaviour:
    """How the Macs behave where macOS leaves it open.

    ``not_now`` is the probability with which a Mac answers NotNow to a command that allows it, ``not_now_for`` a time
    in seconds from the start in which it always does; ``timing`` says when it comes back by itself. ``refused_retries``
    is how often a result that the server refuses is delivered again. ``boot`` and ``shutdown`` are how long each takes,
    ``power`` what a LOM request does where Apple does not say.
    """

    not_now: float = 0.0
    not_now_for: float = 0.0
    timing: Timing = DEFAULT_TIMING
    refused_retries: int = REFUSED_RETRIES
    boot: Duration = BOOT
    shutdown: Duration = SHUTDOWN
    power: PowerChoices = DEFAULT_CHOICES


DEFAULT_BEHAVIOUR = FleetBehaviour()


class Fleet:
    """The Macs of ``indexes``, all of ``population`` by default, as MDM clients.

    A Mac is made when it is first asked for. ``gateway`` is whom they tell that they are back, or have left: for
    whoever runs a push gateway to fill in.
    """

    def __init__(
        self,
        population: Population,
        environment: Environment,
        behaviour: FleetBehaviour = DEFAULT_BEHAVIOUR,
        indexes: range | None = None,
    ) -> None:
        self.population = population
        self.indexes = range(len(population)) if indexes is None else indexes
        self.gateway = GatewaySide()
        self._environment = environment
        self._behaviour = behaviour
        self._not_now_until = environment.reactor.seconds() + behaviour.not_now_for
        shared = (environment.reactor, behaviour.boot, behaviour.shutdown, behaviour.power, behaviour.timing, LIMITS)
        self._idle_store = IdleStore(self._device, shared)
        self._clients: list[MDMClient | None] = [None] * len(self.indexes)
        self._udids: dict[str, int] = {}
        self._without_udid: list[int] = []  # those made since somebody last asked for one by its UDID
        if not environment.network.join(self):
            for client in self:
                environment.network.add(client, population[client.index].dns_name)

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[MDMClient]:
        """Every Mac, made if it is not yet: in a large fleet ``made``, or single Macs, is what is wanted."""
        return map(self.__getitem__, self.indexes)

    def __contains__(self, index: object) -> bool:
        return index in self.indexes

    def __getitem__(self, index: int) -> MDMClient:
        """Mac ``index`` of the population. Raises NoSuchMacError where it is none of this fleet's."""
        if index not in self.indexes:
            raise NoSuchMacError(f"no Mac {index} here: this fleet has {len(self)}, from {self.indexes.start}")
        client = self._clients[index - self.indexes.start]
        return self._make(index) if client is None else client

    def made(self) -> Iterator[MDMClient]:
        """The Macs that were made so far."""
        return (client for client in self._clients if client is not None)

    def of_udid(self, udid: str) -> MDMClient:
        """The Mac with this UDID, of those that were made. Raises KeyError."""
        for index in self._without_udid:
            self._udids[self.population.udid(index)] = index
        self._without_udid.clear()
        return self[self._udids[udid]]

    def at_address(self, segment: int, address: str) -> MDMClient | None:
        """The Mac that has this link-local address in this subnet."""
        index = self.population.index_of_address(address)
        if index is None or index not in self.indexes:
            return None
        client = self[index]
        return client if client.segment == segment else None

    def at_name(self, dns_name: str) -> MDMClient | None:
        """The Mac with this DNS name, in lower case."""
        index = self.population.index_of_name(dns_name)
        return None if index is None or index not in self.indexes else self[index]

    def rest(self, most: int = RESTS_AT_ONCE, looks: int = LOOKS_AT_ONCE) -> int:
        """Lay Macs down that are at nothing; for a timer to call, about once a second. Returns how many.

        Bounded, so that it never takes long: ``looks`` Macs are looked at, the longest awake first, ``most`` laid down.
        """
        laid, active = 0, self._idle_store.out
        for _ in range(min(looks, len(active))):
            client = self[active.popleft()]
            if client.resting:
                continue
            if not client.rest():
                active.append(client.index)
                continue
            laid += 1
            if laid == most:
                break
        return laid

    def close(self) -> None:
        """Close every connection."""
        for client in self.made():
            client.close()

    def _make(self, index: int) -> MDMClient:
        segment = index // self.population.segment_size
        client = MDMClient.at_rest(index, segment, self._environment, self.gateway, self._idle_store)
        self._clients[index - self.indexes.start] = client
        self._without_udid.append(index)
        return client

    def _device(self, index: int) -> Device:
        """A Mac as it comes from the factory."""
        mac, behaviour = self.population[index], self._behaviour
        return Device(
            mac,
            boot_seconds=Durations(behaviour.boot, Chance(mac.source, index, b"boot")),
            shutdown_seconds=Durations(behaviour.shutdown, Chance(mac.source, index, b"shutdown")),
            power_choices=behaviour.power,
            jitter=Chance(mac.source, index, b"back-off"),
            timing=behaviour.timing,
            refused_retries=behaviour.refused_retries,
            not_now=self._not_now(Chance(mac.source, index, b"not now")),
        )

    def _not_now(self, chance: Chance) -> NotNow | None:
        """Whether the Mac is busy just now; None for a Mac that never is."""
        behaviour = self._behaviour
        if not behaviour.not_now and not behaviour.not_now_for:
            return None
        return NotNow(self._environment.reactor, self._not_now_until, chance, behaviour.not_now)


@dataclass(frozen=True, slots=True)
class NotNow:
    """Whether one Mac is busy: always until ``until`` on the clock, then with a probability of ``share``."""

    clock: Clock
    until: float
    chance: Chance
    share: float

    def __call__(self) -> bool:
        return self.clock.seconds() < self.until or self.chance() < self.share
