"""What the Macs of one process share: the reactor, the LOM network, the TLS contexts, the keys, who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from agent.fleet.chance import Chance
from agent.fleet.population import Mac
from agent.measure.operations import Facts, Moment, Operation, Operations
from agent.net.http.connection import HTTPConnection, Stage
from agent.net.http.http1 import Origin
from agent.net.http.resumption import Resumption, binding_of
from agent.net.lom.networks import LOMNetwork
from agent.net.mac.keys import KeyPool
from agent.net.timing import Reactor, RunClock
from agent.net.transport.plain import Unchecked
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.verify import PeerCheck, server_judge

__all__ = ["Environment", "Moment"]

MAX_WARNINGS = 100  # a server can make a Mac say a new one each time


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything around a Mac.

    ``anchors`` are the operator's trust anchors for servers, beside the profile's own. ``insecure`` takes any server's
    certificate for good. ``on_warning`` gets what a person should read, each text once. ``stage`` hears how long the
    parts of an exchange took, as ``HTTPConnection`` tells them. ``resume`` is the share (0 to 1) of a Mac's new
    connections that offer the TLS session kept from the one before.
    """

    reactor: Reactor
    resolver: Resolver
    contexts: TLSContexts
    network: LOMNetwork
    keys: KeyPool
    operations: Operations
    wall_clock: RunClock
    anchors: tuple[x509.Certificate, ...] = ()
    insecure: bool = False
    on_warning: Callable[[str], None] = lambda _text: None
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    stage: Stage | None = None
    resume: float = 0.0
    _warned: set[str] = field(default_factory=set)

    def now(self) -> Moment:
        """This moment."""
        return self.operations.now()

    def begin(self, name: str, device: int, since: Moment | None = None, facts: Facts | None = None) -> Operation:
        """An operation begins that was due at ``since``; None is now. Whoever begins it ends it."""
        return self.operations.begin(name, device, since, facts)

    def warn(self, text: str) -> None:
        """Something a person should read, once for the whole fleet; no more than MAX_WARNINGS different ones."""
        if text in self._warned or len(self._warned) > MAX_WARNINGS:
            return
        if len(self._warned) == MAX_WARNINGS:
            text = f"there are more than {MAX_WARNINGS} different warnings; the others are not shown"
        self._warned.add(text)
        self.on_warning(text)

    def warn_each(self, texts: Iterable[str]) -> None:
        """Each of these as by ``warn``."""
        for text in texts:
            self.warn(text)

    def connection(
        self,
        origin: Origin,
        identity: Identity | None = None,
        anchors: tuple[x509.Certificate, ...] = (),
        pins: tuple[x509.Certificate, ...] = (),
        resumption: Resumption | None = None,
    ) -> HTTPConnection:
        """A connection of one Mac's own; ``anchors`` and ``pins`` are those of its profile."""
        anchors = (*self.anchors, *anchors)

        def check_of(host: str) -> PeerCheck | Unchecked:
            return Unchecked(host) if self.insecure else PeerCheck(server_judge(host), pins)

        return HTTPConnection(
            self.reactor,
            self.resolver,
            self.contexts,
            origin,
            anchors,
            identity,
            check_of=check_of,
            timeouts=self.timeouts,
            stage=self.stage,
            resumption=resumption,
            binding=b"" if resumption is None else binding_of(origin, identity, anchors, pins),
        )

    def resumption_of(self, mac: Mac) -> Resumption | None:
        """Where one Mac keeps its TLS session; None where none is ever resumed."""
        if not self.resume:
            return None
        return Resumption(self.resume, Chance(mac.source, mac.index, b"resume"), self.wall_clock)

    @property
    def open_connections(self) -> int:
        """How many connections the Macs have to their servers."""
        return self.contexts.open_connections

    def trusts(self, chain: Sequence[x509.Certificate], anchors: tuple[x509.Certificate, ...]) -> bool:
        """Whether a signer's chain, its own certificate first, leads to an anchor."""
        return self.contexts.trusts(chain, (*self.anchors, *anchors))
