"""The Macs that one request added: a population with its own LOM network and push endpoint.

Macs and segments have numbers in the service: a group's own numbers, from where the groups before it end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from agent.fleet.population import SERIAL_CHARACTERS_A_MAC, Mac, Population
from agent.net.lom.networks import LOMNetwork
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.macs import Fleet, FleetBehaviour
from agent.net.mac.sessions.commands import MacObserver

if TYPE_CHECKING:  # imported where there is a gateway: a service without one starts faster
    from agent.net.apns.behaviour import PushBehaviour
    from agent.net.apns.endpoint import PushEndpoint


class MacHandle(msgspec.Struct, frozen=True):
    """One Mac: ``index`` in its group. A Mac that is reset keeps its handle."""

    group: Group
    index: int

    @property
    def number(self) -> int:
        """Its number in the service."""
        return self.group.first + self.index

    @property
    def segment(self) -> int:
        """The number of its segment in the service."""
        return self.group.first_segment + self.index // self.group.population.segment_size

    @property
    def removed(self) -> bool:
        """Whether the Mac was removed."""
        return self.group.closed or self.index not in self.group.fleet

    @property
    def client(self) -> MDMClient:
        """The Mac itself, until it is reset or removed."""
        return self.group.fleet[self.index]

    @property
    def mac(self) -> Mac:
        """Its constant properties."""
        return self.group.population[self.index]

    @property
    def udid(self) -> str:
        """Its UDID."""
        return self.group.population.udid(self.index)


class Group:
    """One group. ``first`` and ``first_segment`` are the service's numbers of its first Mac and segment.

    ``indexes``: the Macs of the population that are in this process, whole segments; None: all.
    """

    def __init__(
        self,
        first: int,
        first_segment: int,
        population: Population,
        environment: Environment,
        behaviour: FleetBehaviour,
        push: PushBehaviour | None,
        indexes: range | None = None,
    ) -> None:
        self.first = first
        self.first_segment = first_segment
        self.closed = False
        self.population = population
        self.network: LOMNetwork = environment.network
        self.fleet = Fleet(population, environment, behaviour, indexes)
        self.push_endpoint: PushEndpoint | None = None
        if push is not None:
            from agent.net.mac.fleet.push_endpoint import fleet_push_endpoint

            self.push_endpoint = fleet_push_endpoint(self.fleet, environment, push)

    def __len__(self) -> int:
        """The number of Macs that were not removed."""
        return len(self.fleet)

    def __iter__(self) -> Iterator[MacHandle]:
        """The Macs that were not removed, in order."""
        return (MacHandle(self, index) for index in self.fleet.indexes if index in self.fleet)

    def open(self, observer: MacObserver) -> None:
        """Open the LOM network and the push endpoint, and observe each Mac. Raises OperatorError."""
        self.network.listen()
        if self.push_endpoint is not None:
            self.push_endpoint.open()
        for client in self.fleet:
            client.observer = observer

    def at(self, number: int) -> MacHandle | None:
        """The Mac with this number in the service."""
        index = number - self.first
        return MacHandle(self, index) if index in self.fleet else None

    def named(self, text: str) -> MacHandle | None:
        """The Mac with this UDID or serial number, in upper case."""
        index = self._udids.get(text)
        if index is None:
            source = self.population[0].source
            index = source.serial_index(text[-SERIAL_CHARACTERS_A_MAC:])
            if index is None or index not in self.fleet or self.population[index].serial_number != text:
                return None
        return MacHandle(self, index) if index in self.fleet else None

    def segment(self, number: int) -> list[MacHandle]:
        """The Macs of the segment with this number in the service."""
        own = number - self.first_segment
        if not 0 <= own < self.population.segments:
            return []
        return [MacHandle(self, index) for index in self.population.segment(own) if index in self.fleet]

    def close(self) -> None:
        """Stop every Mac, and close the LOM network and the push endpoint."""
        self.closed = True
        if self.push_endpoint is not None:
            self.push_endpoint.close()
        for client in list(self.fleet.made()):
            client.retire("the Mac was removed")
        self.network.close()

    @cached_property
    def _udids(self) -> dict[str, int]:
        return {self.population.udid(index): index for index in self.fleet.indexes}


class Groups:
    """All groups, in the order in which they were added. Numbers are not used again until ``clear``."""

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._firsts: list[int] = []
        self.next_number = 0
        self.next_segment = 0

    def __iter__(self) -> Iterator[Group]:
        return iter(list(self._groups))

    def __len__(self) -> int:
        """The number of Macs."""
        return sum(map(len, self._groups))

    def add(self, group: Group) -> None:
        """Add a group, whose numbers are the next ones."""
        self._groups.append(group)
        self._firsts.append(group.first)
        self.next_number += len(group.population)
        self.next_segment += group.population.segments

    def remove(self, group: Group) -> None:
        """Remove a group."""
        place = self._groups.index(group)
        del self._groups[place], self._firsts[place]

    def clear(self) -> None:
        """Forget all groups; the numbers begin at 0 again."""
        self._groups.clear()
        self._firsts.clear()
        self.next_number = self.next_segment = 0

    def macs(self) -> Iterator[MacHandle]:
        """Every Mac, by number."""
        for group in self:
            yield from group

    def at(self, number: int) -> MacHandle | None:
        """The Mac with this number."""
        place = bisect_right(self._firsts, number) - 1
        return self._groups[place].at(number) if place >= 0 else None

    def named(self, text: str) -> MacHandle | None:
        """The Mac with this UDID or serial number, in any case."""
        name = text.upper()
        return next((handle for group in self._groups if (handle := group.named(name)) is not None), None)

    def segment(self, number: int) -> list[MacHandle]:
        """The Macs of a segment."""
        return next((handles for group in self._groups if (handles := group.segment(number))), [])

    def has_seed(self, seed: str) -> bool:
        """Whether a group has this seed, so that its Macs would be there twice."""
        return any(group.population.seed == seed for group in self._groups)

    # What a push router asks.

    def index_of_token(self, token: bytes) -> int | None:
        """The number of the Mac with this push token; None for an unknown token."""
        for group in self._groups:
            index = group.population.index_of_token(token)
            if index is not None and index in group.fleet:
                return group.first + index
        return None

    def first_of(self, number: int) -> int:
        """The number of the first Mac in the group of this Mac: it stands for the group."""
        return self._firsts[bisect_right(self._firsts, number) - 1]

    def with_first(self, first: int) -> Group | None:
        """The group whose first Mac has this number, also where that one was removed."""
        return next((group for group in self._groups if group.first == first), None)
