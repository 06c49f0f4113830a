"""The Macs of a shard that goes on after an earlier process of the run."""

from __future__ import annotations

import msgspec

from agent.fleet.population import Population
from agent.net.apns.endpoint import PushEndpoint
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import Fleet
from agent.state.fleet import FleetState
from agent.state.restoring import RestoredMac, restore_group


class KeptMacs(msgspec.Struct, frozen=True):
    """The Macs of a shard, as the one group of its file (`agent.state.fleet.KeptGroup`)."""

    fleet: Fleet
    push_endpoint: PushEndpoint | None
    first: int = 0
    first_segment: int = 0

    @property
    def population(self) -> Population:
        """All Macs of the run."""
        return self.fleet.population


class RestoredShard:
    """Restores the Macs, and later has them act."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._macs: list[RestoredMac] = []
        self._without_mains: list[int] = []
        self._enrolled = 0

    def restore(self, state: FleetState, macs: KeptMacs) -> int:
        """Make the Macs of the file as they were; returns how many are enrolled. Raises OperatorError."""
        stored = bool(state.groups())
        state.add_group(macs, stored=stored)
        if stored:
            self._macs = list(restore_group(state, macs, idle=True, each=self._look))
        return self._enrolled

    def _look(self, client: MDMClient) -> None:
        self._enrolled += client.enrolled
        if client.device.power.cut:
            self._without_mains.append(client.index)

    def carry_on(self) -> None:
        """Have them act: sessions and boots go on. The power cut that an earlier process began is over."""
        for mac in self._macs:
            client = self._fleet[mac.index]
            client.carry_on(in_session=mac.in_session)
            if client.enrolled:
                client.pushes.back()
        for index in self._without_mains:
            self._fleet[index].restore_mains()
