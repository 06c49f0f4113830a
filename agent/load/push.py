"""Push for a run, in two halves: the gateway, and the desks at which the pushes for each process's Macs are decided.

In a run of one process the gateway asks the desk itself; else a router in the gateway's process sends each request to
the desk of the process that owns the Mac, and both are made from the same plain ``PushBehaviour``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from cryptography import x509
from twisted.internet.defer import Deferred, succeed

from agent.errors import OperatorError
from agent.fleet.chance import Chance
from agent.fleet.durations import parse_duration
from agent.fleet.population import Population
from agent.lab.authorities import Authorities
from agent.lab.profiles import TOPIC
from agent.lab.push import LabPush
from agent.lab.server import LabServer
from agent.load.fleet import Fleet
from agent.net.apns_connection import Router
from agent.net.apns_desk import PushDesk
from agent.net.apns_gateway import NAMES, APNsGateway
from agent.net.apns_provider import APNsProvider
from agent.net.apns_router import PushRouter
from agent.net.reactor import Reactor
from agent.net.surroundings import Surroundings
from agent.net.tls import TLSContexts
from agent.pki.identity import Identity
from agent.push.broker import Presence, PushBroker
from agent.push.delays import Delay, PowerSaving, no_delay
from agent.push.requests import PushPolicy
from agent.push.rules import PushRules, Rule, away_times, parse_rule
from agent.push.store import Notification

AT_ONCE = "constant:0"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how a wildcard is reached from this machine

Push = Callable[[str], Deferred[str]]


@dataclass(frozen=True, slots=True)
class PushBehaviour:
    """How APNs behaves, as plain data: every process makes its half from it. Raises OperatorError for nonsense.

    ``delay`` is a duration's text, or AT_ONCE; ``power_saving`` is in seconds, 0 for none; ``rules`` are lines as
    ``agent.push.rules`` has them.
    """

    strict: bool = False
    delay: str = AT_ONCE
    power_saving: float = 0.0
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_delay(self.delay)
        if not 0.0 <= self.power_saving < float("inf"):
            raise OperatorError(f"power saving should be a number of seconds from 0, but is {self.power_saving!r}")
        self.parsed_rules()

    def policy(self) -> PushPolicy:
        """What is refused."""
        return PushPolicy(strict=self.strict)

    def parsed_rules(self) -> tuple[Rule, ...]:
        """What goes wrong on purpose."""
        return tuple(parse_rule(text) for text in self.rules)


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


def parse_delay(text: str) -> Delay:
    """How long a push takes, from its text. Raises OperatorError."""
    if text == AT_ONCE:
        return no_delay
    duration = parse_duration(text)
    return lambda chance: duration.draw(lambda: chance)


class MacChances:
    """For each Mac a row of numbers of its own, so that what becomes of its pushes depends on no other's."""

    def __init__(self, population: Population, purpose: bytes) -> None:
        self._source = population[0].source
        self._purpose = purpose
        self._rows: dict[int, Chance] = {}

    def __call__(self, index: int) -> float:
        """The next number of a Mac's row."""
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = Chance(self._source, index, self._purpose)
        return row()


class FleetMacs:
    """The Macs of a fleet, as the broker asks for them; ``owned`` says which of them are in this process."""

    def __init__(self, fleet: Fleet, owned: Container[int] | None = None) -> None:
        self._fleet = fleet
        self._population = fleet.population
        self._owned = range(len(fleet.population)) if owned is None else owned

    def find(self, token: bytes) -> int | None:
        """Whose push token it is."""
        index = self._population.index_of_token(token)
        return index if index is not None and index in self._owned else None

    def presence(self, index: int) -> Presence:
        """How it stands."""
        return self._fleet[index].pushes.presence

    def topic(self, index: int) -> str:
        """What it listens to."""
        return self._fleet[index].pushes.topic

    def left_at(self, index: int) -> float:
        """When it left its management."""
        return self._fleet[index].pushes.left_at or 0.0


def fleet_desk(
    fleet: Fleet,
    surroundings: Surroundings,
    behaviour: PushBehaviour,
    *,
    began: float,
    owned: Container[int] | None = None,
    ahead: Callable[[], float] = lambda: 0.0,
) -> PushDesk:
    """The desk for the Macs of this process, who tell it when they are back.

    ``began`` is when the gateway was opened (seconds since the epoch): the rules' times count from it. ``ahead`` is how
    far the dates of others are ahead of ``surroundings.wall_clock``.
    """
    population = fleet.population
    broker = PushBroker(
        FleetMacs(fleet, owned),
        policy=behaviour.policy(),
        delay=parse_delay(behaviour.delay),
        chance=MacChances(population, b"push delay"),
        saving=PowerSaving(behaviour.power_saving),
        rules=PushRules(behaviour.parsed_rules(), MacChances(population, b"push rules")),
        began=began,
    )

    def deliver(notification: Notification) -> bool:
        return fleet[notification.index].receive_push(notification)

    desk = PushDesk(surroundings.reactor, broker, deliver, wall_clock=surroundings.wall_clock, ahead=ahead)
    fleet.gateway.on_back = desk.came_back
    fleet.gateway.on_left = desk.left
    return desk


def fleet_router(
    reactor: Reactor,
    population: Population,
    behaviour: PushBehaviour,
    shard_of: Callable[[int], int],
    send: Callable[[int, bytes], object],
    wall_clock: Callable[[], float] = time.time,
) -> PushRouter:
    """The router to the desks of other processes; its ``began`` is theirs."""
    return PushRouter(
        reactor,
        population,
        shard_of,
        send,
        policy=behaviour.policy(),
        rules=behaviour.parsed_rules(),
        wall_clock=wall_clock,
    )


class PushFront:
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
