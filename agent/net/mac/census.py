"""How many Macs of a shard are in which state, counted a part at a time so that the reactor is never kept long."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from agent.lom.power import Power
from agent.mdm.session import State
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet import Fleet
from agent.net.timing import Clock, DelayedCall

SLICE = 1000
PAUSE_SECONDS = 0.02


class Census:
    """``macs`` is the last whole count; a Mac that was never needed is new."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self.macs: dict[str, int] = {"new": len(fleet)}
        self._fleet = fleet
        self._clock = clock
        self._timer: DelayedCall | None = None
        self._counting = Counter[str]()
        self._rest = iter(fleet.made())

    def begin(self) -> None:
        """Count again and again."""
        self._timer = self._clock.callLater(PAUSE_SECONDS, self._step)

    def stop(self) -> None:
        """Count a last time, all at once, and no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
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
        self._timer = self._clock.callLater(PAUSE_SECONDS if len(part) == SLICE else 10 * PAUSE_SECONDS, self._step)


def state_of(client: MDMClient) -> str:
    """The state that the time line counts a Mac under. One at rest is not woken for it."""
    if client.resting:
        return "idle" if client.enrolled else "left" if client.left else "new"
    device = client.device
    match device.power.state:
        case Power.BOOTING:
            return "booting"
        case Power.OFF | Power.SHUTTING_DOWN:
            return "off"
    if device.enrolment is None:
        return "left" if client.left else "new"
    return "idle" if device.session.state is State.CLOSED else "session"
