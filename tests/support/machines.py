"""Several machines on one: a network namespace for each, with its own address, and a cable between each and the first.

The first has the conductor. Its address is on no cable, so that cutting one cuts off one worker only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from namespaces import Namespace, namespaces

CONDUCTOR = "10.77.0.1"


@dataclass(frozen=True)
class Machine:
    """A namespace and its address; ``cable`` is the interface in the conductor's namespace."""

    place: Namespace
    address: str
    cable: str = ""


@dataclass(frozen=True)
class Machines:
    """The conductor's machine, and those of the workers."""

    conductor: Machine
    workers: Sequence[Machine]

    def cut(self, number: int) -> None:
        """Pull the cable of a worker's machine."""
        self.conductor.place.ip("link", "set", self.workers[number].cable, "down")

    def delay(self, number: int, *how: str) -> bool:
        """Delay and lose packets to a worker's machine (tc-netem(8)); False where the kernel has no netem."""
        words = ["tc", "qdisc", "add", "dev", self.workers[number].cable, "root", "netem", *how]
        done = subprocess.run(self.conductor.place.command(*words), capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def plug(self, number: int) -> None:
        """Plug it in again."""
        worker = self.workers[number]
        self.conductor.place.ip("link", "set", worker.cable, "up")


@contextmanager
def machines(workers: int) -> Iterator[Machines]:
    """A conductor's machine, and so many more. Needs root on Linux."""
    with namespaces(1 + workers) as (first, *others):
        first.ip("addr", "add", f"{CONDUCTOR}/32", "dev", "lo")
        made = []
        for number, place in enumerate(others, 1):
            cable, address, near = f"w{number}", f"10.77.{number}.2", f"10.77.{number}.1"
            first.ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", place.name)
            first.ip("addr", "add", f"{near}/30", "dev", cable)
            first.ip("link", "set", cable, "up")
            place.ip("addr", "add", f"{address}/30", "dev", "eth0")
            place.ip("link", "set", "eth0", "up")
            place.ip("route", "add", f"{CONDUCTOR}/32", "via", near)
            made.append(Machine(place, address, cable))
        yield Machines(Machine(first, CONDUCTOR), made)
