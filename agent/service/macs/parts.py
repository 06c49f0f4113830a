"""What all Macs of a service share, and how a group of them is made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography import x509

from agent.fleet.population import DEFAULT_SEED, Population
from agent.measure.exchanges import ExchangeLog, HTTPExchange
from agent.measure.operations import RUN_ENDED, Operations
from agent.measure.records import Exchange
from agent.net.http.connection import alpn_of
from agent.net.lom.networks import make_network, parse_network
from agent.net.mac.fleet.behaviour import DEFAULT_TLS_FLOOR, MacSettings, TLSFloor
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.keys import KeyPool
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.net.timing import RunClock, Stalls
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.service.macs.clocks import MacClock, ManualClock, RealClock
from agent.service.macs.groups import Group
from agent.service.macs.measurements import Measurements
from agent.service.macs.rules import GroupFaults
from agent.state.rules import KeptFaults

if TYPE_CHECKING:
    from agent.state.fleet import FleetState

if TYPE_CHECKING:
    from agent.net.apns.behaviour import PushBehaviour  # as in `agent.service.macs.groups`

_KEY_PROCESSES = 2  # that make RSA keys for SCEP; ours


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the service starts with: the Macs of its start, and what holds for all Macs."""

    seed: str = DEFAULT_SEED
    devices: int = 0
    """Macs that are there after the start and after each reset."""
    segment_size: int | None = None
    """Macs in each of their segments; None: all in one."""
    os: str | None = None
    """Of these Macs; None: a mix."""
    model: str | None = None
    enroll: str | bytes | None = None
    """The URL of an enrollment profile, or a profile, for requests that name none."""
    automated: bool = False
    """Enroll as in Setup Assistant where a request does not say how."""
    device_ca: bytes = field(default=b"", repr=False)
    """The CA of the Macs' own identities with its key, in PEM; empty: that of the lab."""
    lom_network: str = "loopback"
    anchors: tuple[x509.Certificate, ...] = ()
    """CA certificates of servers, beside those of the system."""
    insecure: bool = False
    """Accept any server certificate."""
    http: str = "auto"
    """HTTP/2 where the server chooses it by ALPN; ``1.1``: always HTTP/1.1."""
    manual_clock: bool = False
    poll: float | None = None
    """How often each enrolled Mac opens a session by itself, in seconds; None: never."""
    push: PushBehaviour | None = None
    """The behaviour of the push gateway; None without one."""
    tls_floor: TLSFloor = DEFAULT_TLS_FLOOR
    """What Macs with macOS 27 or later do about a server below the TLS that Apple asks for."""
    macs: MacSettings = field(default_factory=MacSettings)
    """How they behave."""


class MacParts:
    """The clock, the rules, the records and the network access of all Macs.

    ``ended`` is called with each operation that ended, ``exchanged`` with each exchange, ``warn`` with texts for the
    operator. ``state`` is the file to which the Macs are written; None: they end with the process.
    """

    def __init__(
        self,
        reactor: Any,
        settings: ServiceSettings,
        *,
        ended: Callable[[Exchange], object],
        exchanged: Callable[[HTTPExchange], object],
        warn: Callable[[str], None],
        measured: Measurements,
        state: FleetState | None = None,
    ) -> None:
        self._state = state
        self.clock: MacClock = ManualClock(reactor) if settings.manual_clock else RealClock(reactor)
        self.wall_clock = RunClock(self.clock)
        self.faults = KeptFaults()
        self.exchanges = ExchangeLog(exchanged)
        self.stalls = Stalls(reactor)
        self._reactor = reactor
        self._settings = settings
        self._behaviour = FleetBehaviour.of(settings.macs)
        parse_network(settings.lom_network)  # a name that cannot be used is refused before anything is open
        self._warn = warn
        self._measured = measured

        def record(exchange: Exchange) -> None:
            measured(exchange)
            ended(exchange)

        self.operations = Operations(reactor, record, started=measured.started, wall_clock=RunClock(reactor))
        self._contexts = TLSContexts(short_keys=True)
        self._keys = KeyPool(reactor, processes=_KEY_PROCESSES)
        self._resolver = Resolver(reactor, reactor.nameResolver)

    @property
    def connections(self) -> int:
        """The open connections to servers."""
        return self._contexts.open_connections

    @property
    def closed_connections(self) -> int:
        """How many connections to servers were closed."""
        return self._contexts.closed_connections

    def group(self, population: Population, first: int, first_segment: int, indexes: range | None = None) -> Group:
        """A group that is not open yet; ``indexes`` as of Group. Raises OperatorError."""
        settings = self._settings
        environment = Environment(
            reactor=self._reactor,
            clock=self.clock,
            resolver=self._resolver,
            contexts=self._contexts,
            network=make_network(settings.lom_network, self._reactor, self.operations),
            keys=self._keys,
            operations=self.operations,
            wall_clock=self.wall_clock,
            anchors=settings.anchors,
            insecure=settings.insecure,
            tls_floor=settings.tls_floor,
            on_warning=self._warn,
            stage=self._measured.stage,
            connected=self._measured.connected,
            alpn=alpn_of(settings.http),
            faults=GroupFaults(self.faults, first, first_segment),
            exchanges=self.exchanges,
            keeper=None if self._state is None else self._state.keeper(first),
        )
        return Group(first, first_segment, population, environment, self._behaviour, settings.push, indexes)

    def close(self) -> None:
        """Close what the Macs shared, after all groups."""
        self.operations.cut_short(RUN_ENDED)
        self.stalls.stop()
        self._keys.close()
