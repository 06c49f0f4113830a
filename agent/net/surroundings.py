"""What the Macs of one process share: the reactor, the LOM network, the TLS contexts, who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography import x509

from agent.net.http import HTTPConnection
from agent.net.http1 import Origin
from agent.net.lom_link import LoopbackNetwork
from agent.net.reactor import Reactor
from agent.net.records import Exchange, Failure, Observer
from agent.net.resolver import Resolver
from agent.net.tls import TLSContexts
from agent.pki.identity import Identity


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks: ``wall`` in seconds since the epoch, ``ticks`` on the reactor's clock."""

    wall: float
    ticks: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything around a Mac. ``anchors`` are the operator's trust anchors for servers, beside the profile's own."""

    reactor: Reactor
    resolver: Resolver
    contexts: TLSContexts
    network: LoopbackNetwork
    observer: Observer
    anchors: tuple[x509.Certificate, ...] = ()
    wall_clock: Callable[[], float] = time.time

    def now(self) -> Moment:
        """This moment."""
        return Moment(self.wall_clock(), self.reactor.seconds())

    def record(
        self,
        operation: str,
        device: int,
        since: Moment,
        failure: BaseException | None = None,
        facts: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """Tell the observer that an operation, due at ``since``, is over now."""
        self.observer(
            Exchange(
                operation=operation,
                device=device,
                started=since.wall,
                seconds=self.reactor.seconds() - since.ticks,
                failure=None if failure is None else Failure.of(failure),
                facts=facts or {},
            )
        )

    def connection(
        self, origin: Origin, identity: Identity | None, anchors: tuple[x509.Certificate, ...] = ()
    ) -> HTTPConnection:
        """A connection of one Mac's own; ``anchors`` are those of its profile."""
        return HTTPConnection(self.reactor, self.resolver, self.contexts, origin, (*self.anchors, *anchors), identity)
