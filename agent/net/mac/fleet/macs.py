"""The Macs of one process. Each is made from the seed when it is first used, and serialised while it is idle."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from agent.device.mac import Device
from agent.device.stored.packed import IdleStore
from agent.device.users.channel import Account, UserDevice
from agent.fleet.chance import Chance
from agent.fleet.durations import Duration, Durations, parse_duration
from agent.fleet.population import Mac, NoSuchMacError, Population
from agent.lom.link import LIMITS
from agent.lom.power import PowerChoices
from agent.mdm.session import Session
from agent.mdm.timing import DEFAULT_TIMING, Timing
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.behaviour import MacSettings
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.push import GatewaySide
from agent.net.timing import Clock
from agent.profiles.policy import PerUserConnections

# Macs in one call of ``Fleet.make_idle``, which takes a millisecond or two.
MADE_IDLE_AT_ONCE = 10
LOOKS_AT_ONCE = 50
CALLS_A_SECOND = 20  # of ``Fleet.keep_within_memory``
REST_SECONDS = 1.0  # without a session on an open connection, before a Mac is made idle; ours
ACTIVE_MAC_BYTES = 34 * 1024  # measured: its objects, its key after a signature, and the key's copy for TLS


_DEFAULTS = MacSettings()
_BOOT = parse_duration(_DEFAULTS.boot)
_SHUTDOWN = parse_duration(_DEFAULTS.shutdown)
_UPDATE = parse_duration(_DEFAULTS.update)


class FleetBehaviour(msgspec.Struct, frozen=True):
    """The settings of the Macs, with durations and time-outs parsed. ``MacSettings`` says what each one means."""

    not_now: float = _DEFAULTS.not_now
    not_now_for: float = _DEFAULTS.not_now_for
    timing: Timing = DEFAULT_TIMING
    refused_retries: int = _DEFAULTS.refused_retries
    boot: Duration = _BOOT
    shutdown: Duration = _SHUTDOWN
    update: Duration = _UPDATE
    power: PowerChoices = _DEFAULTS.power
    users: float = _DEFAULTS.users
    network_users: float = _DEFAULTS.network_users
    supervised: float = _DEFAULTS.supervised
    per_user_connections: PerUserConnections = _DEFAULTS.per_user_connections

    @classmethod
    def of(cls, settings: MacSettings) -> FleetBehaviour:
        """The behaviour that the settings describe. Raises OperatorError for text that is not a duration."""
        return cls(
            not_now=settings.not_now,
            not_now_for=settings.not_now_for,
            timing=Timing(not_now=settings.not_now_retry),
            refused_retries=settings.refused_retries,
            boot=parse_duration(settings.boot),
            shutdown=parse_duration(settings.shutdown),
            update=parse_duration(settings.update),
            power=settings.power,
            users=settings.users,
            network_users=settings.network_users,
            supervised=settings.supervised,
            per_user_connections=settings.per_user_connections,
        )


DEFAULT_BEHAVIOUR = FleetBehaviour()


class Fleet:
    """The Macs of ``indexes`` (by default the whole ``population``), as MDM clients.

    A Mac is made on first access. The push endpoint sets the callbacks in ``gateway``, which the Macs call when they
    are back or have left. ``memory`` are the bytes that quiet Macs may keep, so that their next session costs less.
    """

    def __init__(
        self,
        population: Population,
        environment: Environment,
        behaviour: FleetBehaviour = DEFAULT_BEHAVIOUR,
        indexes: range | None = None,
        memory: int = 0,
    ) -> None:
        self.population = population
        self.indexes = range(len(population)) if indexes is None else indexes
        self.gateway = GatewaySide()
        self._environment = environment
        self._behaviour = behaviour
        self._not_now_until = environment.clock.seconds() + behaviour.not_now_for
        durations = (behaviour.boot, behaviour.shutdown, behaviour.update)
        shared = (environment.clock, *durations, behaviour.power, behaviour.timing, LIMITS)
        self._idle_store = IdleStore(self._device, shared)
        self._most_active = memory // ACTIVE_MAC_BYTES
        self._at_rest: OrderedDict[int, float] = OrderedDict()  # since when Macs keep little beside their connection
        self._clients: list[MDMClient | None] = [None] * len(self.indexes)
        self._udids: dict[str, int] = {}
        self._without_udid: list[int] = []  # made since the last ``of_udid``
        self._removed: set[int] = set()
        self._each_added = not environment.network.join(self)
        if self._each_added:
            for client in self:
                environment.network.add(client, population[client.index].dns_name)

    def __len__(self) -> int:
        return len(self._clients) - len(self._removed)

    def __iter__(self) -> Iterator[MDMClient]:
        """Every Mac; makes those that are missing. In a large fleet use ``made`` or an index."""
        return (self[index] for index in self.indexes if index not in self._removed)

    def __contains__(self, index: object) -> bool:
        return index in self.indexes and index not in self._removed

    def __getitem__(self, index: int) -> MDMClient:
        """Mac ``index`` of the population. Raises NoSuchMacError where it is not in this fleet."""
        if index not in self:
            raise NoSuchMacError(f"expected a Mac from {self.indexes.start} to {self.indexes.stop - 1}, found {index}")
        client = self._clients[index - self.indexes.start]
        return self._make(index) if client is None else client

    @property
    def environment(self) -> Environment:
        """What its Macs are given."""
        return self._environment

    def made(self) -> Iterator[MDMClient]:
        """The Macs that exist so far."""
        return (client for client in self._clients if client is not None)

    def of_udid(self, udid: str) -> MDMClient:
        """The Mac with this UDID, among those that exist. Raises KeyError."""
        for index in self._without_udid:
            self._udids[self.population.udid(index)] = index
        self._without_udid.clear()
        return self[self._udids[udid]]

    def renew(self, index: int) -> MDMClient:
        """Replace Mac ``index`` by a new one, as it was made from the seed, without an observer. Returns it."""
        self[index].retire("the Mac was reset")
        self._clients[index - self.indexes.start] = None
        client = self[index]
        if self._each_added:
            self._environment.network.add(client, self.population[index].dns_name)
        return client

    def remove(self, index: int) -> None:
        """Remove Mac ``index``."""
        self[index].retire("the Mac was removed")
        self._clients[index - self.indexes.start] = None
        self._removed.add(index)

    def at_address(self, segment: int, address: str) -> MDMClient | None:
        """The Mac with this link-local address in this subnet, or None."""
        index = self.population.index_of_address(address)
        if index is None or index not in self:
            return None
        client = self[index]
        return client if client.segment == segment else None

    def at_name(self, dns_name: str) -> MDMClient | None:
        """The Mac with this DNS name (lower case), or None."""
        index = self.population.index_of_name(dns_name)
        return None if index is None or index not in self else self[index]

    def keep_within_memory(self) -> int:
        """Make quiet Macs idle that are beyond the fleet's ``memory``, the more the more there are; returns how many.

        Called every 40 ms: they are never more than those that end a session in a second, or a few hundred.
        """
        most = max(MADE_IDLE_AT_ONCE, (len(self._idle_store.active) - self._most_active) // CALLS_A_SECOND)
        return self.make_idle(most, max(LOOKS_AT_ONCE, 2 * most))

    def make_idle(self, most: int = MADE_IDLE_AT_ONCE, looks: int = LOOKS_AT_ONCE) -> int:
        """Make quiet Macs idle that are beyond the fleet's ``memory``; returns how many.

        To return soon, it checks at most ``looks`` active Macs, the least recently used first, and makes ``most`` idle.
        A quiet Mac with an open connection frees what it can, and becomes idle after REST_SECONDS without a session.
        """
        count, active, now = 0, self._idle_store.active, self._environment.clock.seconds()
        for _ in range(min(looks, len(active) - self._most_active)):
            index, _ = active.popitem(last=False)
            if index not in self or self[index].is_idle:
                continue
            client = self[index]
            if client.is_at_rest:
                client.free_memory()
                self._at_rest[index] = now
                self._at_rest.move_to_end(index)
                count += 1
            elif client.make_idle():
                count += 1
            else:
                active[index] = None
            if count == most:
                return count
        return count + self._make_rested_idle(most - count, looks, now - REST_SECONDS)

    def _make_rested_idle(self, most: int, looks: int, before: float) -> int:
        """Make Macs idle that have been at rest since ``before``; returns how many."""
        count, at_rest = 0, self._at_rest
        for _ in range(min(looks, len(at_rest))):
            index = next(iter(at_rest))
            if at_rest[index] > before:
                break
            del at_rest[index]
            if index not in self or index in self._idle_store.active or self[index].is_idle:
                continue
            if self[index].make_idle():
                count += 1
                if count == most:
                    break
            else:
                self._idle_store.active[index] = None
        return count

    def close(self) -> None:
        """Close every connection and cancel every timer."""
        for client in self.made():
            client.close()

    def _make(self, index: int) -> MDMClient:
        segment = index // self.population.segment_size
        client = MDMClient.idle(index, segment, self._environment, self.gateway, self._idle_store)
        self._clients[index - self.indexes.start] = client
        self._without_udid.append(index)
        return client

    def _device(self, index: int) -> Device:
        """A new Mac: not enrolled, running."""
        mac, behaviour = self.population[index], self._behaviour
        purposes = (b"boot", b"shutdown", b"back-off", b"not now", b"update")
        chances = [Chance(mac.source, index, purpose) for purpose in purposes]
        boot, shutdown, jitter, not_now, update = chances
        device = Device(
            mac,
            boot_seconds=Durations(behaviour.boot, boot),
            shutdown_seconds=Durations(behaviour.shutdown, shutdown),
            update_seconds=Durations(behaviour.update, update),
            power_choices=behaviour.power,
            jitter=jitter,
            timing=behaviour.timing,
            refused_retries=behaviour.refused_retries,
            not_now=self._not_now(not_now),
            per_user_connections=behaviour.per_user_connections,
            supervised_by_profile=self._is_supervised(mac),
            chances=tuple(chances),
        )
        device.user = self._user(device, jitter)
        return device

    def _is_supervised(self, mac: Mac) -> bool:
        """Whether an enrollment with a profile supervises this Mac."""
        share = self._behaviour.supervised
        return share >= 1.0 or Chance(mac.source, mac.index, b"supervised")() < share

    def _user(self, device: Device, jitter: Chance) -> UserDevice | None:
        """The user who is logged in on a new Mac; None if nobody is."""
        mac, behaviour = device.mac, self._behaviour
        if not behaviour.users or Chance(mac.source, mac.index, b"user")() >= behaviour.users:
            return None
        network = Chance(mac.source, mac.index, b"network user")() < behaviour.network_users
        session = Session(mac.udid, jitter, behaviour.timing, behaviour.refused_retries)
        return UserDevice(device, Account.of(mac, network=network), session)

    def _not_now(self, chance: Chance) -> NotNow | None:
        """Decides on NotNow for one Mac; None for a Mac that never answers it."""
        behaviour = self._behaviour
        if not behaviour.not_now and not behaviour.not_now_for:
            return None
        return NotNow(self._environment.clock, self._not_now_until, chance, behaviour.not_now)


class NotNow(msgspec.Struct, frozen=True):
    """Whether a Mac answers NotNow: always until ``until`` on ``clock``, then with the probability ``share``."""

    clock: Clock
    until: float
    chance: Chance
    share: float

    def __call__(self) -> bool:
        return self.clock.seconds() < self.until or self.chance() < self.share
