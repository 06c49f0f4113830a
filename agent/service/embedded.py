"""The lab and the APNs gateway beside the Macs of a service, in their process.

The gateway routes each push by its device token to the push endpoint of the Mac's group. The lab pushes through it, as
any other server does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from cryptography import x509
from twisted.internet.defer import Deferred, gatherResults

from agent.faults.decisions import Faults
from agent.lab.stored.keeping import lab_server, listen
from agent.lab.stored.store import LabStore
from agent.lab.web.server import LabServer
from agent.load.conductor.gateway import APNsPlan, PushGateway, issued_identity
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.router import PushRouter, Tokens
from agent.net.timing import Clock, RunClock
from agent.pki.issuing.authorities import Authorities
from agent.pki.pem import certificate_pem
from agent.push.wire import RoutedAnswer, RoutedPush
from agent.service.types import APNsInfo, LabInfo


class PushedService(Protocol):
    """The service to whose Macs the gateway pushes: `agent.service.fleet.FleetService`, or the front of workers."""

    lab: LabInfo | None
    apns: APNsInfo | None
    on_reset: Callable[[], object]
    on_push_answer: Callable[[int, RoutedAnswer], object]
    on_lost: Callable[[int], object]

    @property
    def faults(self) -> Faults: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def tokens(self) -> Tokens: ...
    def owner_of(self, number: int) -> int: ...
    def push(self, owner: int, push: RoutedPush) -> object: ...


class EmbeddedChoice(msgspec.Struct, frozen=True):
    """What is beside the Macs: ``lab``, and the gateway at ``host`` and ``port``, which a lab always has."""

    lab: bool = False
    scep: bool = False
    """Whether the lab gives identities by SCEP instead of PKCS12."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free port."""
    state: LabStore | None = None
    """Where the lab keeps its state, and the ports of both; None: they end with the process."""
    provider_anchors: tuple[x509.Certificate, ...] = ()
    """The CAs whose push certificates the gateway accepts; none: any push certificate."""
    acme: bool = False
    """Whether the lab gives identities by ACME."""


class Embedded:
    """The lab and the gateway. ``authorities`` issue their certificates."""

    def __init__(self, reactor: Any, service: PushedService, choice: EmbeddedChoice, authorities: Authorities) -> None:
        self.lab: LabServer | None = None
        if choice.lab:
            self.lab = lab_server(reactor, choice.state, authorities, scep=choice.scep, acme=choice.acme)
        self._service = service
        self._choice = choice
        self._authorities = authorities
        self._router = PushRouter(
            reactor, service.tokens, service.owner_of, service.push, RunClock(service.clock), PushBehaviour()
        )
        service.on_push_answer = self._router.answered
        service.on_lost = self._router.shard_gone
        identity = issued_identity(authorities, choice.host)
        port = choice.port or (0 if choice.state is None else choice.state.port("apns port"))
        plan = APNsPlan(choice.host, port, identity, choice.provider_anchors)
        self._gateway = PushGateway(reactor, plan, self._router, self.lab, service.faults, service.clock)

    def listen(self) -> None:
        """Listen, and tell the service of both. Raises OperatorError."""
        if self.lab is not None:
            state = self._choice.state
            listen(self.lab, state)
            self._service.lab = LabInfo(
                url=self.lab.url,
                enroll_url=self.lab.enrollment_url,
                automated_url=self.lab.automated_url,
                token=self.lab.token,
                ca=certificate_pem(self._authorities.anchor).decode("ascii"),
            )
        self._gateway.listen()
        if self._choice.state is not None:
            self._choice.state.keep_port("apns port", self._gateway.url)
        self._service.apns = APNsInfo(
            url=self._gateway.url,
            ca=certificate_pem(self._authorities.anchor).decode("ascii"),
            provider_ca="".join(certificate_pem(each).decode("ascii") for each in self._choice.provider_anchors),
        )
        self._service.on_reset = self._reset

    def close(self) -> Deferred[Any]:
        """Stop both; fires when their ports are closed."""
        closing: list[Deferred[Any]] = [self._gateway.close()]
        self._router.close()
        if self.lab is not None:
            closing.append(self.lab.close())
        return gatherResults(closing)

    def _reset(self) -> None:
        if self.lab is not None:
            self.lab.lab.forget_macs()
