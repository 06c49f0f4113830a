"""Counts the Macs of a shard by state, a slice at a time so that the reactor is not blocked for long."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from agent.lom.power import Power
from agent.mdm.session import State
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import Fleet
from agent.net.timing import Alarm, Clock

SLICE = 1000  # Macs counted in one turn of the reactor
PAUSE_SECONDS = 0.02  # between two slices


class Census:
    """``macs`` is the last complete count, by state. A Mac that was not used yet is ``new``."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self.macs: dict[str, int] = {"new": len(fleet)}
        self._fleet = fleet
        self._alarm = Alarm(clock, self._step)
        self._counting = Counter[str]()
        self._rest = iter(fleet.made())

    def begin(self) -> None:
        """Count repeatedly."""
        self._alarm.set_on_tick(PAUSE_SECONDS)

    def stop(self) -> None:
        """Stop, after a last count of all Macs at once."""
        self._alarm.cancel()
        counted = Counter(map(state_of, self._fleet.made()))
        counted["new"] += len(self._fleet) - counted.total()
        self.macs = dict(counted)

    def _step(self) -> None:
        part = list(islice(self._rest, SLICE))
        for client in part:
            self._counting[state_of(client)] += 1
        if len(part) < SLICE:
            self._counting["new"] += len(self._fleet) - self._counting.total()
            self.macs = dict(self._counting)
            self._counting.clear()
            self._rest = iter(self._fleet.made())
        self._alarm.set_on_tick(PAUSE_SECONDS if len(part) == SLICE else 10 * PAUSE_SECONDS)


def state_of(client: MDMClient) -> str:
    """The state of a Mac in the timeline. An idle Mac stays idle."""
    if client.is_idle:
        return "idle" if client.enrolled else "left" if client.left else "new"
    device = client.device
    match device.power.state:
        case Power.BOOTING:
            return "booting"
        case Power.OFF | Power.SHUTTING_DOWN:
            return "off"
    if device.enrollment is None:
        return "left" if client.left else "new"
    return "idle" if device.session.state is State.CLOSED else "session"
