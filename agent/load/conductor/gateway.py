"""The APNs gateway of a run, in the conductor's process, and the embedded lab's provider that pushes to it.

Its router (`agent.net.apns.router`) sends each push over the control link to the push endpoint of the process that
simulates the Mac, even where that is the only worker. Router and endpoints are made from one ``PushBehaviour``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from twisted.internet.defer import Deferred, succeed

from agent.errors import OperatorError
from agent.faults.decisions import Faults
from agent.lab.mdm.push import LabPush
from agent.lab.web.server import LabServer
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.connection import Router
from agent.net.apns.gateway import NAMES, APNsGateway
from agent.net.apns.outages import Outages
from agent.net.apns.provider import APNsProvider
from agent.net.timing import Clock, Reactor
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import TOPIC

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the address at which this machine reaches a wildcard


@dataclass(frozen=True, slots=True)
class APNsPlan:
    """The settings of a run's gateway."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free port."""
    identity: Identity | None = field(default=None, repr=False)
    """The gateway's certificate; None has the lab issue one."""
    provider_anchors: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    """The CAs of valid client certificates; without any, every certificate is accepted."""
    behaviour: PushBehaviour = field(default_factory=PushBehaviour)


class PushGateway:
    """The gateway; with a lab also the provider through which the lab pushes, as any MDM server does.

    ``faults`` has the rules that have it away, at times of ``clock``.
    """

    def __init__(
        self,
        reactor: Reactor,
        plan: APNsPlan,
        router: Router,
        lab: LabServer | None,
        faults: Faults,
        clock: Clock,
    ) -> None:
        self._reactor = reactor
        self._plan = plan
        self._lab = lab
        self._identity = plan.identity or issued_identity(None if lab is None else lab.authorities, plan.host)
        self._gateway = APNsGateway(
            reactor,
            router,
            self._identity,
            provider_anchors=plan.provider_anchors,
        )
        self._outages = Outages(clock, faults, self._gateway)

    @property
    def url(self) -> str:
        """The URL that a server pushes to."""
        host = f"[{self._gateway.host}]" if ":" in self._gateway.host else self._gateway.host
        return f"https://{host}:{self._gateway.port}"

    def listen(self) -> None:
        """Open the gateway, and let the lab push to it. Raises OperatorError."""
        self._gateway.listen(self._plan.host, self._plan.port)
        self._outages.open()
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
        """Stop listening and shut the connections down; fires when all have ended."""
        self._outages.close()
        if self._lab is not None and self._lab.push is not None:
            self._lab.push.close()
            self._lab.push = None
        return self._gateway.close() if self._gateway.port else succeed(None)


def issued_identity(authorities: Authorities | None, host: str) -> Identity:
    """A certificate for the gateway at this host. Raises OperatorError without authorities that can issue it."""
    if authorities is None:
        raise OperatorError(
            "Expected a certificate for the APNs gateway, found none and no lab to issue one. "
            "Give push.tls (--apns-tls DIR)."
        )
    return authorities.server_identity([*NAMES, *_WILDCARDS.values(), host])
