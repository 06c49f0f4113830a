"""Which worker has which Mac: groups of Macs, as `agent.service.macs.groups` has them, divided among the workers.

A segment is never divided: its Controller reaches the Devices of its own process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from agent.fleet.population import SERIAL_CHARACTERS_A_MAC, Mac, Population
from agent.service.errors import not_a_mac
from agent.service.workers.messages import Share


class SharedGroup:
    """A group of Macs. ``shares`` has the part of each worker that has one."""

    def __init__(self, shares: Mapping[int, Share]) -> None:
        self.shares = dict(shares)
        one = next(iter(self.shares.values()))
        self.first = one.first
        self.first_segment = one.first_segment
        self.population = one.population

    def worker_of(self, index: int) -> int | None:
        """The worker of a Mac of the population; None where its worker is lost."""
        return next((worker for worker, share in self.shares.items() if share.start <= index < share.stop), None)

    def index_of(self, text: str) -> int | None:
        """The index of the Mac with this UDID or serial number, in upper case."""
        index = self._udids.get(text)
        if index is None:
            index = self.population[0].source.serial_index(text[-SERIAL_CHARACTERS_A_MAC:])
            if index is None or index >= len(self.population) or self.population[index].serial_number != text:
                return None
        return index

    @cached_property
    def _udids(self) -> dict[str, int]:
        return {self.population.udid(index): index for index in range(len(self.population))}


class Place:
    """A Mac and its worker. ``number`` is the Mac's number in the service."""

    __slots__ = ("group", "index", "worker")

    def __init__(self, group: SharedGroup, index: int, worker: int) -> None:
        self.group = group
        self.index = index
        self.worker = worker

    @property
    def number(self) -> int:
        """The number of the Mac in the service."""
        return self.group.first + self.index

    @property
    def mac(self) -> Mac:
        """The constant properties of the Mac."""
        return self.group.population[self.index]


class Roster:
    """All groups, the oldest first. Numbers are not used again until ``clear``."""

    def __init__(self) -> None:
        self._groups: list[SharedGroup] = []
        self.next_number = 0
        self.next_segment = 0

    def __iter__(self) -> Iterator[SharedGroup]:
        return iter(list(self._groups))

    def add(self, group: SharedGroup) -> None:
        """Add a group, whose numbers are the next ones."""
        self._groups.append(group)
        self.next_number = group.first + len(group.population)
        self.next_segment = group.first_segment + group.population.segments

    def remove(self, group: SharedGroup) -> None:
        """Remove a group."""
        self._groups.remove(group)

    def remove_all(self) -> None:
        """Remove every group."""
        self._groups.clear()

    def clear(self) -> None:
        """Remove every group; the numbers begin at 0 again."""
        self.remove_all()
        self.next_number = self.next_segment = 0

    def has_seed(self, seed: str) -> bool:
        """Whether a group has this seed, so that its Macs would be there twice."""
        return any(group.population.seed == seed for group in self._groups)

    def find(self, text: str) -> Place:
        """The Mac with this UDID, serial number or number. Raises NoSuchMac."""
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
        place = self._named(text.upper()) if number is None else self.at(number)
        if place is None:
            raise not_a_mac(text)
        return place

    def at(self, number: int) -> Place | None:
        """The Mac with this number."""
        place = bisect_right([group.first for group in self._groups], number) - 1
        if place < 0:
            return None
        group = self._groups[place]
        return self._place(group, number - group.first)

    def worker_of_segment(self, number: int) -> int | None:
        """The worker that has the segment with this number in the service."""
        for group in self._groups:
            own = number - group.first_segment
            if 0 <= own < group.population.segments:
                return group.worker_of(own * group.population.segment_size)
        return None

    def count_of(self, worker: int) -> int:
        """About how many Macs a worker has."""
        shares = (group.shares.get(worker) for group in self._groups)
        return sum(share.stop - share.start for share in shares if share is not None)

    def _named(self, name: str) -> Place | None:
        for group in self._groups:
            index = group.index_of(name)
            if index is not None and (place := self._place(group, index)) is not None:
                return place
        return None

    def _place(self, group: SharedGroup, index: int) -> Place | None:
        if not 0 <= index < len(group.population):
            return None
        worker = group.worker_of(index)
        return None if worker is None else Place(group, index, worker)


def divided(population: Population, first: int, first_segment: int, loads: Mapping[int, int]) -> dict[int, Share]:
    """The shares of a new group; ``loads`` has the Macs of each worker so far.

    Whole segments, as many to each worker as to the others; one that has fewer Macs gets its segments first.
    """
    workers = sorted(loads, key=lambda worker: (loads[worker], worker))[: population.segments]
    shares = {}
    begin = 0
    for place, worker in enumerate(workers, 1):
        end = population.segments * place // len(workers)
        start, stop = begin * population.segment_size, min(end * population.segment_size, len(population))
        begin = end
        shares[worker] = Share(
            first, first_segment, population.seed, population.devices, population.segment_size, population.os,
            population.model, start, stop, population.roles,
        )  # fmt: skip
    return shares


def spread(shares: Sequence[Share]) -> str:
    """The Macs of some shares, for people."""
    ends = ((share.first + share.start, share.first + share.stop - 1) for share in shares)
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in ends) or "none"
