"""Push for one run: the gateway beside the fleet, and the provider by which the lab pushes like any other server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred, fail, succeed

from agent.errors import OperatorError, PeerError
from agent.lab.profiles import TOPIC
from agent.lab.server import LabServer
from agent.load.fleet import Fleet
from agent.net.apns_gateway import NAMES, APNsGateway
from agent.net.apns_provider import APNsProvider, PushFailed
from agent.net.surroundings import Surroundings
from agent.net.tls import TLSContexts
from agent.pki.identity import Identity
from agent.push.broker import Presence, PushBroker
from agent.push.delays import Delay, PowerSaving, no_delay
from agent.push.requests import PushPolicy
from agent.push.rules import PushRules, Rule
from agent.push.store import Notification

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how a wildcard is reached from this machine

Push = Callable[[str], Deferred[str]]


@dataclass(frozen=True, slots=True)
class APNsPlan:
    """The gateway of a run. ``identity`` is its certificate; None has the lab issue one.

    ``provider_anchors`` are the CAs of good client certificates; none means that every one is taken at its word.
    """

    host: str = "127.0.0.1"
    port: int = 0
    identity: Identity | None = None
    provider_anchors: tuple[x509.Certificate, ...] = ()
    policy: PushPolicy = field(default_factory=PushPolicy)
    delay: Delay = no_delay
    saving: PowerSaving = field(default_factory=PowerSaving)
    rules: tuple[Rule, ...] = ()


class FleetMacs:
    """The Macs of a fleet, as the broker asks for them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._population = fleet.population

    def find(self, token: bytes) -> int | None:
        """Whose push token it is."""
        return self._population.index_of_token(token)

    def presence(self, index: int) -> Presence:
        """How it stands."""
        return self._fleet[index].pushes.presence

    def topic(self, index: int) -> str:
        """What it listens to."""
        return self._fleet[index].pushes.topic

    def left_at(self, index: int) -> float:
        """When it left its management."""
        return self._fleet[index].pushes.left_at or 0.0


class PushService:
    """The gateway of a fleet, and with a lab the lab's provider. ``counts`` is for the results."""

    def __init__(self, fleet: Fleet, surroundings: Surroundings, plan: APNsPlan, lab: LabServer | None) -> None:
        self._fleet = fleet
        self._around = surroundings
        self._plan = plan
        self._lab = lab
        self._provider: APNsProvider | None = None
        identity = plan.identity
        if identity is None:
            if lab is None:
                raise OperatorError("the APNs gateway needs a certificate: there is no lab that could issue one")
            identity = lab.authorities.server_identity([*NAMES, *_WILDCARDS.values(), plan.host])
        self._identity = identity
        population = fleet.population
        self._broker = PushBroker(
            FleetMacs(fleet),
            policy=plan.policy,
            delay=plan.delay,
            chance=population.chance(b"push delay"),
            saving=plan.saving,
            rules=PushRules(plan.rules, population.chance(b"push rules")),
            began=surroundings.wall_clock(),
        )
        self._gateway = APNsGateway(
            surroundings.reactor,
            self._broker,
            self._deliver,
            identity,
            provider_anchors=plan.provider_anchors,
            wall_clock=surroundings.wall_clock,
        )
        fleet.gateway.on_back = self._gateway.came_back
        fleet.gateway.on_left = self._gateway.left

    @property
    def url(self) -> str:
        """Where a server pushes."""
        host = f"[{self._gateway.host}]" if ":" in self._gateway.host else self._gateway.host
        return f"https://{host}:{self._gateway.port}"

    @property
    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return {**self._broker.counts.as_json(), "waiting": self._broker.waiting}

    def listen(self) -> None:
        """Open the gateway; with a lab, its provider. Raises OperatorError."""
        self._gateway.listen(self._plan.host, self._plan.port)
        if self._lab is not None:
            authorities = self._lab.authorities
            self._provider = APNsProvider(
                self._around.reactor,
                TLSContexts(),
                (_WILDCARDS.get(self._gateway.host, self._gateway.host), self._gateway.port),
                (authorities.anchor if self._plan.identity is None else self._identity.certificate,),
                authorities.push_identity(TOPIC),
            )

    def push(self, udid: str) -> Deferred[str]:
        """Have the lab push one of its Macs: the apns-id, or PushFailed."""
        mac = None if self._lab is None else self._lab.lab.macs.get(udid)
        if mac is None or self._provider is None:
            return fail(PushFailed("the lab has no such Mac, so it has no token to push to"))
        index = self._fleet.of_udid(udid).index
        since = self._around.now()

        def failed(failure: Any) -> Any:
            if failure.check(PeerError) is not None:
                self._around.record("push", index, since, failure.value)
            return failure

        return self._provider.push(mac.token, mac.push_magic, TOPIC).addErrback(failed)

    def close(self) -> Deferred[None]:
        """Hang up, listen no longer; fires when the providers are gone."""
        if self._provider is not None:
            self._provider.close()
        return self._gateway.close() if self._gateway.port else succeed(None)

    def _deliver(self, notification: Notification) -> bool:
        return self._fleet[notification.index].receive_push(notification)
