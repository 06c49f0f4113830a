"""What a Mac has only while it is awake. At rest it is a few octets on the shelf, and none of this is there.

Its parts refer to one another in one direction, and upwards by the client alone, so that they are gone as soon as the
client lets go of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.device.mac import Device
from agent.net.commands import Commands
from agent.net.errands import Errands
from agent.net.lom_presence import LOMPresence
from agent.net.operations import RUN_ENDED
from agent.net.power import PowerTimer
from agent.net.push_listener import PushListener
from agent.net.session_connection import SessionConnection
from agent.net.sessions import Sessions

WENT_DOWN = "the Mac went down"


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
    lom: LOMPresence
    connection: SessionConnection
    commands: Commands
    sessions: Sessions

    @property
    def quiet(self) -> bool:
        """Whether the Mac is at nothing, so that it can be laid down."""
        return self.device.quiet and self.pushes.quiet and self.errands.quiet and self.commands.quiet

    def rest(self) -> None:
        """The Mac is quiet: give up what can be made again."""
        self.connection.rest()
        self.commands.rest()
        for identity in self.device.identities:
            identity.rest()

    def go_down(self, *, in_order: bool) -> None:
        """The power goes: whatever ran is gone. ``in_order`` as in a shutdown, where connections are closed."""
        self.sessions.stop(WENT_DOWN)
        self.errands.abandon(in_order=in_order)
        self.pushes.forget(WENT_DOWN)
        self.connection.power_lost(in_order=in_order)
        self.device.lose_power()
        if not self.device.session.owes_result:
            self.commands.forget(WENT_DOWN)

    def close(self) -> None:
        """The end of the run: every connection is closed, every timer forgotten."""
        self.sessions.stop(RUN_ENDED)
        self.power.stop()
        self.errands.close()
        self.connection.hang_up()
