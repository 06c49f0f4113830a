"""What a Mac has only while it is awake. At rest it is a few octets on the shelf, and none of this is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.device.mac import Device
from agent.net.errands import Errands
from agent.net.power import PowerTimer
from agent.net.push_listener import PushListener


class Shelf(Protocol):
    """Where a Device lies while nothing happens to it: ``agent.device.shelf``."""

    def fetch(self, index: int, kept: bytes) -> Device:
        """The Device of this index, from what ``lay`` gave; from the factory where that is empty."""

    def lay(self, device: Device) -> bytes:
        """What ``fetch`` makes this Device of again."""


@dataclass(frozen=True, slots=True)
class Awake:
    """The Device and what belongs to it alone."""

    device: Device
    pushes: PushListener
    errands: Errands
    power: PowerTimer

    @property
    def quiet(self) -> bool:
        """Whether the Mac is at nothing, so that it can be laid down."""
        return self.device.quiet and self.pushes.quiet and self.errands.quiet

    def close(self) -> None:
        """The end of the run."""
        self.power.stop()
        self.errands.close()
