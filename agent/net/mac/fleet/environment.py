"""The per-process dependencies of the Macs: reactor, clock, resolver, TLS contexts, LOM network, RSA keys, records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
from cryptography import x509
from twisted.internet.defer import DeferredSemaphore

from agent.faults.decisions import Faults, Hit
from agent.fleet.chance import Chance
from agent.fleet.population import Mac
from agent.mdm.facts import version
from agent.measure.exchanges import ExchangeLog
from agent.measure.operations import Facts, Moment, Operation, Operations
from agent.net.http.connection import BOTH, HTTPConnection, StageObserver
from agent.net.http.faulty import ConnectionFault, FaultyConnection
from agent.net.http.http1 import Origin
from agent.net.http.resumption import Resumption, binding_of
from agent.net.lom.networks import LOMNetwork
from agent.net.mac.faults.injection import connection_fault
from agent.net.mac.fleet.behaviour import DEFAULT_TLS_FLOOR, TLSFloor
from agent.net.mac.fleet.keeping import Keeper
from agent.net.mac.fleet.keys import KeyPool
from agent.net.timing import Clock, Reactor, RunClock
from agent.net.transport.floor import FloorCheck
from agent.net.transport.plain import Unchecked
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.net.transport.tls import CLASSIC_GROUPS, Check, TLSContexts
from agent.pki.identity import Identity
from agent.pki.mdm_signatures import Signatures
from agent.pki.tls_floor import SINCE
from agent.pki.verify import PeerCheck, server_judge

MAX_DOWNLOADS = 16  # at a time; ours
MAX_WARNINGS = 100  # ours: a server can cause a new text with each answer

POST_QUANTUM_SINCE = 26
"""The major macOS release from which on a Mac offers X25519MLKEM768. Source: Apple support article 122756."""


class Environment(msgspec.Struct, frozen=True):
    """What every Mac of a process is given."""

    reactor: Reactor
    clock: Clock
    """What Macs decide by: boots, retries, back-off, pushes. The reactor, or a clock that stands still for a test."""
    resolver: Resolver
    contexts: TLSContexts
    network: LOMNetwork
    keys: KeyPool
    operations: Operations
    wall_clock: RunClock
    """The dates of the Macs by ``clock``, in seconds since the epoch."""
    anchors: tuple[x509.Certificate, ...] = ()
    """The operator's trust anchors for servers, beside those of the profile."""
    insecure: bool = False
    """Accept any server certificate."""
    on_warning: Callable[[str], None] = lambda _text: None
    """Called with each text that the operator should read, once."""
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    stage: StageObserver | None = None
    """Called with the duration of each part of an exchange, as by ``HTTPConnection``."""
    alpn: tuple[bytes, ...] = BOTH
    """The protocols that are offered to servers."""
    connected: Callable[[str], object] | None = None
    """Called with the version of HTTP of each connection that was opened to a server."""
    tls_floor: TLSFloor = DEFAULT_TLS_FLOOR
    """What Macs with macOS 27 or later do about a server below the TLS that Apple asks for."""
    resume: float = 0.0
    """The share (0 to 1) of a Mac's new connections that offer the TLS session of the one before."""
    faults: Faults | None = None
    """The fault rules; None where no fault is ever injected."""
    exchanges: ExchangeLog | None = None
    """Where every exchange is kept; None where none is."""
    keeper: Keeper | None = None
    """What writes the Macs to a file; None where they end with the process."""
    downloads: DeferredSemaphore = msgspec.field(default_factory=lambda: DeferredSemaphore(MAX_DOWNLOADS))
    """Of apps and assets: each is held in memory until its hash is checked."""
    signatures: Signatures = msgspec.field(default_factory=Signatures)
    """Makes the ``Mdm-Signature`` headers."""
    _warned: set[str] = msgspec.field(default_factory=set)

    def now(self) -> Moment:
        """The current time, on both clocks."""
        return self.operations.now()

    def begin(self, name: str, device: int, since: Moment | None = None, facts: Facts | None = None) -> Operation:
        """Start the record of an operation that was due at ``since``; None is now. The caller ends it."""
        return self.operations.begin(name, device, since, facts)

    def warn(self, text: str) -> None:
        """Warn the operator, once for the whole fleet; at most MAX_WARNINGS different texts."""
        if text in self._warned or len(self._warned) > MAX_WARNINGS:
            return
        if len(self._warned) == MAX_WARNINGS:
            text = f"there are more than {MAX_WARNINGS} different warnings; the others are not shown"
        self._warned.add(text)
        self.on_warning(text)

    def warn_each(self, texts: Iterable[str]) -> None:
        """Call ``warn`` with each text."""
        for text in texts:
            self.warn(text)

    def changed(self, index: int) -> None:
        """Mac ``index`` changed in a way that is to outlive the process."""
        if self.keeper is not None:
            self.keeper.changed(index)

    def decide(self, on: str, mac: Mac, type_: str = "") -> Hit | None:
        """The fault rule that hits this operation of a Mac, if any."""
        faults = self.faults
        return None if faults is None else faults.decide(on, mac, self.clock.seconds(), type_)

    def connection(
        self,
        mac: Mac,
        origin: Origin,
        identity: Identity | None = None,
        anchors: tuple[x509.Certificate, ...] = (),
        pins: tuple[x509.Certificate, ...] = (),
        resumption: Resumption | None = None,
        *,
        floor: bool = True,
    ) -> HTTPConnection:
        """A new connection for this Mac; ``anchors`` and ``pins`` are those of its profile.

        ``floor``: the TLS floor applies, as it does to all but SCEP servers.
        """
        anchors = (*self.anchors, *anchors)
        make: Callable[..., HTTPConnection] = HTTPConnection
        if self.faults is not None:
            make = partial(FaultyConnection, on_connect=lambda: self._fault_of_connect(mac, identity))

        judged = floor and self.tls_floor != "off" and version(mac.os_version)[0] >= SINCE

        def check_of(host: str) -> Check:
            check = Unchecked(host) if self.insecure else PeerCheck(server_judge(host), pins)
            return FloorCheck(check, self.warn, refuse=self.tls_floor == "apple-2026") if judged else check

        return make(
            self.reactor,
            self.resolver,
            self.contexts,
            origin,
            anchors,
            identity,
            check_of=check_of,
            timeouts=self.timeouts,
            stage=self.stage,
            alpn=self.alpn,
            groups=b"" if version(mac.os_version)[0] >= POST_QUANTUM_SINCE else CLASSIC_GROUPS,
            connected=self.connected,
            resumption=resumption,
            binding=b"" if resumption is None else binding_of(origin, identity, anchors, pins),
        )

    def _fault_of_connect(self, mac: Mac, identity: Identity | None) -> ConnectionFault | None:
        """What goes wrong with a new connection; only those with the Mac's identity are to the MDM server."""
        hit = None if identity is None else self.decide("connect", mac)
        return None if hit is None else connection_fault(hit.rule, identity)

    def resumption_of(self, mac: Mac) -> Resumption | None:
        """Where a Mac keeps its TLS session; None where no session is resumed."""
        if not self.resume:
            return None
        return Resumption(self.resume, Chance(mac.source, mac.index, b"resume"), self.wall_clock)

    @property
    def open_connections(self) -> int:
        """How many connections the Macs have to their servers."""
        return self.contexts.open_connections

    def trusts(self, chain: Sequence[x509.Certificate], anchors: tuple[x509.Certificate, ...]) -> bool:
        """Whether a signer's chain (its own certificate first) leads to a trust anchor."""
        return self.contexts.trusts(chain, (*self.anchors, *anchors))
