"""The push endpoint for the Macs of one process: device tokens, presence, and each Mac's random numbers."""

from __future__ import annotations

import json

from agent.faults.decisions import Hit
from agent.fleet.chance import Chance
from agent.fleet.population import USER_CHANNEL, Population
from agent.net.apns.behaviour import PushBehaviour, parse_delay
from agent.net.apns.endpoint import PushEndpoint
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.macs import Fleet
from agent.net.mac.sessions.exchanging import record
from agent.push.broker import Injected, Presence, PushBroker
from agent.push.delays import PowerSaving
from agent.push.store import Notification


class MacChances:
    """Random numbers for each Mac from its own seeded sequence, so pushes to one Mac do not affect those to another."""

    def __init__(self, population: Population, purpose: bytes) -> None:
        self._source = population[0].source
        self._purpose = purpose
        self._rows: dict[int, Chance] = {}

    def __call__(self, index: int) -> float:
        """The next number for Mac ``index``, from 0 to 1."""
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = Chance(self._source, index, self._purpose)
        return row()


class FleetMacs:
    """The Macs of a fleet, as the broker looks them up (`agent.push.broker.Macs`)."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def find(self, token: bytes) -> int | None:
        """The number of the token's channel; None where its Mac is not in this fleet.

        It is the index of the Mac, plus USER_CHANNEL for the user channel.
        """
        number = self._fleet.population.channel_of_token(token)
        return number if number is not None and number % USER_CHANNEL in self._fleet else None

    def presence(self, index: int) -> Presence:
        """Whether APNs can reach the Mac."""
        mac = self._fleet[index % USER_CHANNEL]
        return mac.pushes.presence if index < USER_CHANNEL else mac.user_presence

    def topic(self, index: int) -> str:
        """The topic of the Mac's enrollment; empty where it has none."""
        return self._fleet[index % USER_CHANNEL].pushes.topic

    def left_at(self, index: int) -> float:
        """When the Mac was unenrolled, in seconds since the epoch; 0 where it was not."""
        return self._fleet[index % USER_CHANNEL].pushes.left_at or 0.0


class PushFaults:
    """The fault rules of a fleet for its pushes: what the broker asks for each valid push."""

    def __init__(self, fleet: Fleet, environment: Environment) -> None:
        self._fleet = fleet
        self._environment = environment

    def __call__(self, index: int) -> Injected | None:
        """What a rule does to a push for Mac ``index``; where it takes the Mac offline, that is done here."""
        index %= USER_CHANNEL
        hit = self._environment.decide("push", self._fleet.population[index])
        if hit is None:
            return None
        rule = hit.rule
        opened = record(self._environment, self._fleet.population[index], "push", hit)
        if opened is not None:
            status = rule.push_reason.status if rule.do in ("refuse", "throttle") else None
            opened.end(status=status, error=f"a fault rule: {rule.do}")
        if rule.do == "offline":
            self._fleet[index].go_offline(rule.seconds or 0.0)
        return injected_by(hit)


def injected_by(hit: Hit) -> Injected | None:
    """What a hit does to a push itself; None where that is nothing."""
    rule = hit.rule
    match rule.do:
        case "refuse" | "throttle":
            return Injected(reason=rule.push_reason)
        case "drop":
            return Injected(broken=True)
        case "lose":
            return Injected(lost=True)
        case "store":
            return Injected(held=hit.left)
        case "delay":
            return Injected(delay=rule.seconds or 0.0)
    return None


def fleet_push_endpoint(fleet: Fleet, environment: Environment, behaviour: PushBehaviour) -> PushEndpoint:
    """The endpoint for ``fleet``, whose Macs tell it when they are back or have left."""
    population = fleet.population
    broker = PushBroker(
        FleetMacs(fleet),
        policy=behaviour.policy(),
        delay=parse_delay(behaviour.delay),
        chance=MacChances(population, b"push delay"),
        saving=PowerSaving(behaviour.power_saving),
        inject=None if environment.faults is None else PushFaults(fleet, environment),
    )

    def deliver(notification: Notification) -> bool:
        opened = None
        if environment.exchanges is not None:
            request = {"mdm": notification.push_magic, "topic": notification.topic, "apns-id": notification.apns_id}
            opened = record(
                environment, population[notification.index % USER_CHANNEL], "push", request=json.dumps(request).encode()
            )
        mac = fleet[notification.index % USER_CHANNEL]
        to_user = notification.index >= USER_CHANNEL
        taken = mac.receive_user_push(notification) if to_user else mac.receive_push(notification)
        if opened is not None:
            opened.end(error="" if taken else "ignored: another PushMagic or topic")
        return taken

    push_endpoint = PushEndpoint(environment.clock, broker, deliver, environment.wall_clock)
    fleet.gateway.on_back = push_endpoint.came_back
    fleet.gateway.on_left = push_endpoint.left
    return push_endpoint
