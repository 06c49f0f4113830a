"""Push for a run, in two halves: the gateway, and the desks at which the pushes for each process's Macs are decided.

In a run of one process the gateway asks the desk itself; else a router in the gateway's process sends each request to
the desk of the process that owns the Mac, and both are made from the same plain ``PushBehaviour``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from twisted.internet.defer import Deferred, succeed

from agent.errors import OperatorError
from agent.lab.push import LabPush
from agent.lab.server import LabServer
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.connection import Router
from agent.net.apns.gateway import NAMES, APNsGateway
from agent.net.apns.provider import APNsProvider
from agent.net.timing import Reactor
from agent.net.transport.tls import TLSContexts
from agent.pki.authorities import Authorities
from agent.pki.identity import Identity
from agent.profiles.making import TOPIC
from agent.push.rules import away_times

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how a wildcard is reached from this machine

Push = Callable[[str], Deferred[str]]


@dataclass(frozen=True, slots=True)
class APNsPlan:
    """The gateway of a run. ``identity`` is its certificate; None has the lab issue one.

    ``provider_anchors`` are the CAs of good client certificates; none means that every one is taken at its word.
    """

    host: str = "127.0.0.1"
    port: int = 0
    identity: Identity | None = field(default=None, repr=False)
    provider_anchors: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    behaviour: PushBehaviour = field(default_factory=PushBehaviour)


class PushGateway:
    """The gateway, and with a lab the provider by which the lab pushes like any other server."""

    def __init__(self, reactor: Reactor, plan: APNsPlan, router: Router, lab: LabServer | None) -> None:
        self._reactor = reactor
        self._plan = plan
        self._lab = lab
        self._identity = plan.identity or _issued(None if lab is None else lab.authorities, plan.host)
        self._gateway = APNsGateway(
            reactor,
            router,
            self._identity,
            away=away_times(plan.behaviour.parsed_rules()),
            provider_anchors=plan.provider_anchors,
        )

    @property
    def url(self) -> str:
        """Where a server pushes."""
        host = f"[{self._gateway.host}]" if ":" in self._gateway.host else self._gateway.host
        return f"https://{host}:{self._gateway.port}"

    def listen(self) -> None:
        """Open the gateway; the lab pushes to it from now on. Raises OperatorError."""
        self._gateway.listen(self._plan.host, self._plan.port)
        if self._lab is not None:
            authorities = self._lab.authorities
            provider = APNsProvider(
                self._reactor,
                TLSContexts(),
                (_WILDCARDS.get(self._gateway.host, self._gateway.host), self._gateway.port),
                (authorities.anchor if self._plan.identity is None else self._identity.certificate,),
                authorities.push_identity(TOPIC),
            )
            self._lab.push = LabPush(self._lab.lab, provider)

    def close(self) -> Deferred[None]:
        """Hang up, listen no longer; fires when the providers are gone."""
        if self._lab is not None and self._lab.push is not None:
            self._lab.push.close()
            self._lab.push = None
        return self._gateway.close() if self._gateway.port else succeed(None)


def _issued(authorities: Authorities | None, host: str) -> Identity:
    if authorities is None:
        raise OperatorError("the APNs gateway needs a certificate: there is no lab that could issue one")
    return authorities.server_identity([*NAMES, *_WILDCARDS.values(), host])
