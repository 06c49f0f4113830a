"""The Macs of one process, ready to run: made from the seed, put on the LOM network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from agent.device.mac import Device
from agent.fleet.chance import Chance
from agent.fleet.durations import Duration, Uniform
from agent.fleet.population import Population
from agent.lom.power import DEFAULT_CHOICES, PowerChoices
from agent.mdm.session import DEFAULT_TIMING, Timing
from agent.net.mdm_client import MDMClient
from agent.net.reactor import Clock
from agent.net.surroundings import Surroundings

# A real Mac takes half a minute; a first look at the tool should not.
BOOT = Uniform(1.0, 3.0)
SHUTDOWN = Uniform(0.2, 1.0)


@dataclass(frozen=True, slots=True)
class Manners:
    """How the Macs behave where macOS leaves it open.

    ``not_now`` is the probability with which a Mac answers NotNow to a command that allows it, ``not_now_for`` a time
    in seconds from the start in which it always does; ``timing`` says when it comes back by itself. ``boot`` and
    ``shutdown`` are how long each takes, ``power`` what a LOM request does where Apple does not say.
    """

    not_now: float = 0.0
    not_now_for: float = 0.0
    timing: Timing = DEFAULT_TIMING
    boot: Duration = BOOT
    shutdown: Duration = SHUTDOWN
    power: PowerChoices = DEFAULT_CHOICES


USUAL_MANNERS = Manners()


class Fleet:
    """Every Mac of ``population`` as an MDM client."""

    def __init__(self, population: Population, surroundings: Surroundings, manners: Manners = USUAL_MANNERS) -> None:
        self.population = population
        self._clients: list[MDMClient] = []
        self._by_udid: dict[str, MDMClient] = {}
        for mac in population:
            device = Device(
                mac,
                boot_seconds=partial(manners.boot.draw, Chance(mac.source, mac.index, b"boot")),
                shutdown_seconds=partial(manners.shutdown.draw, Chance(mac.source, mac.index, b"shutdown")),
                power_choices=manners.power,
                jitter=Chance(mac.source, mac.index, b"back-off"),
                timing=manners.timing,
                not_now=_not_now(manners, surroundings.reactor, Chance(mac.source, mac.index, b"not now")),
            )
            client = MDMClient(device, surroundings)
            self._clients.append(client)
            self._by_udid[mac.udid] = client
            surroundings.network.add(client, mac.dns_name)

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[MDMClient]:
        return iter(self._clients)

    def __getitem__(self, index: int) -> MDMClient:
        return self._clients[index]

    def of_segment(self, segment: int) -> list[MDMClient]:
        """The Macs of one subnet."""
        return [self._clients[index] for index in self.population.segment(segment)]

    def of_udid(self, udid: str) -> MDMClient:
        """The Mac with this UDID."""
        return self._by_udid[udid]

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()


def _not_now(manners: Manners, clock: Clock, chance: Chance) -> Callable[[], bool] | None:
    """Whether the Mac is busy just now; None for a Mac that never is."""
    if not manners.not_now and not manners.not_now_for:
        return None
    until = clock.seconds() + manners.not_now_for
    return lambda: clock.seconds() < until or chance() < manners.not_now
