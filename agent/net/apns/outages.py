"""The times at which fault rules have the gateway away."""

from __future__ import annotations

from typing import Protocol

from agent.faults.decisions import Faults
from agent.net.timing import Alarm, Clock


class CanBeAway(Protocol):
    """What an outage happens to."""

    def set_away(self, away: bool) -> None:
        """Reset all connections and stop listening, or listen again."""


class Outages:
    """Takes a gateway away and back by the rules in ``faults``, whose times are those of ``clock``."""

    def __init__(self, clock: Clock, faults: Faults, gateway: CanBeAway) -> None:
        self._clock = clock
        self._faults = faults
        self._gateway = gateway
        self._alarm = Alarm(clock, self.look)

    def open(self) -> None:
        """Follow the rules, also those that are added from now on."""
        self._faults.on_rules = self.look
        self.look()

    def close(self) -> None:
        """Follow them no longer."""
        self._faults.on_rules = None
        self._alarm.cancel()

    def look(self) -> None:
        """Do what the rules say at this time."""
        now = self._clock.seconds()
        self._gateway.set_away(self._faults.away(now))
        self._alarm.set_at(self._faults.next_away(now))
