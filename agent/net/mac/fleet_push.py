"""Pushes to the Macs of one process: which Mac a device token means, and the chances of each Mac."""

from __future__ import annotations

import time
from collections.abc import Callable, Container

from agent.fleet.chance import Chance
from agent.fleet.population import Population
from agent.net.apns.behaviour import PushBehaviour, parse_delay
from agent.net.apns.endpoint import PushEndpoint
from agent.net.apns.router import PushRouter
from agent.net.mac.environment import Environment
from agent.net.mac.fleet import Fleet
from agent.net.timing import Reactor
from agent.push.broker import Presence, PushBroker
from agent.push.delays import PowerSaving
from agent.push.rules import PushRules
from agent.push.store import Notification


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


def fleet_push_endpoint(
    fleet: Fleet,
    environment: Environment,
    behaviour: PushBehaviour,
    *,
    began: float,
    owned: Container[int] | None = None,
    ahead: Callable[[], float] = lambda: 0.0,
) -> PushEndpoint:
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

    push_endpoint = PushEndpoint(environment.reactor, broker, deliver, wall_clock=environment.wall_clock, ahead=ahead)
    fleet.gateway.on_back = push_endpoint.came_back
    fleet.gateway.on_left = push_endpoint.left
    return push_endpoint


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
