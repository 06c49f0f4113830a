"""The service in a worker: the Macs of its shares, with the numbers that the front gave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.faults.rules import Rule
from agent.fleet.population import DEFAULT_SEED
from agent.measure.exchanges import HTTPExchange
from agent.push.requests import token_of
from agent.push.wire import RoutedAnswer, RoutedPush
from agent.service.fleet import FleetService
from agent.service.macs.groups import Group, MacHandle
from agent.service.macs.parts import ServiceSettings
from agent.service.workers.messages import Share

if TYPE_CHECKING:
    from agent.state.fleet import FleetState, StoredGroup


class ShareService(FleetService):
    """A service whose Macs are those of ``open_shares`` and ``add_share``. It has none of its own.

    ``on_change`` is called when there are new events or exchanges.
    """

    def __init__(
        self, reactor: Any, settings: ServiceSettings, on_warning: Callable[[str], None], state: FleetState | None
    ) -> None:
        self.on_change: Callable[[], object] = lambda: None
        none = replace(settings, seed=DEFAULT_SEED, devices=0, segment_size=None, os=None, model=None)
        super().__init__(reactor, none, on_warning=on_warning, state=state)
        self._shares: dict[int, Share] = {}  # those of the start

    def open_shares(self, shares: Sequence[Share], rules: Sequence[Rule]) -> dict[int, list[int]]:
        """Make the Macs of these shares, or take them from the state file, and follow these rules.

        Returns the Macs that were removed, by the first number of their group. Raises OperatorError.
        """
        self._shares = {share.first: share for share in shares}
        self.open()
        self._shares = {}
        self._follow(rules)
        return {} if self._state is None else {share.first: self._state.removed(share.first) for share in shares}

    def add_share(self, share: Share) -> list[MacHandle]:
        """Add Macs. Raises OperatorError."""
        return self._add_group(share.population, share.first, share.first_segment, range(share.start, share.stop))

    def remove_share(self, first: int) -> None:
        """Remove the Macs of the group whose first Mac has this number, as if they had not been added."""
        group = self.groups.with_first(first)
        if group is not None:
            self._close_group(group)

    def measurements(self) -> dict[str, Any]:
        """The sums of the operations so far, for the front."""
        return self._measured.snapshot()

    def row(self) -> dict[str, Any]:
        """What was counted since the last row."""
        return self._measured.row()

    def receive(self, push: RoutedPush) -> RoutedAnswer | None:
        """Decide on a push; None where its Mac is not here any more."""
        token = token_of(push.fields)
        number = None if token is None else self.groups.index_of_token(token)
        group: Group | None = None if number is None else self.groups.with_first(self.groups.first_of(number))
        return None if group is None or group.push_endpoint is None else group.push_endpoint.receive(push)

    def flush(self) -> None:
        """Write what changed to the state file."""
        if self._state is not None:
            self._state.flush()

    # What the service does differently.

    def _add_start(self) -> None:
        for share in self._shares.values():
            self.add_share(share)

    def _open_with(self, state: FleetState) -> None:
        """Make the Macs of the file, without groups that the front does not have, and those that the file lacks."""
        for stored in state.groups():
            share = self._shares.get(stored.first)
            if share is None or _stored(share) != stored:
                state.forget_group(stored.first)
        state.flush()
        super()._open_with(state)
        present = {group.first for group in self.groups}
        for share in self._shares.values():
            if share.first not in present:
                self.add_share(share)

    def _indexes_of(self, stored: StoredGroup) -> range:
        share = self._shares[stored.first]
        return range(share.start, share.stop)

    def _exchanged(self, exchange: HTTPExchange) -> None:
        super()._exchanged(exchange)
        self.on_change()

    def _follow(self, rules: Sequence[Rule]) -> None:
        """Have the rules of the front, with the counts of those that the file has."""
        wanted, present = {rule.id: rule for rule in rules}, {each.rule.id for each in self.faults}
        for name in present - wanted.keys():
            self.faults.remove(name)
        for name in wanted.keys() - present:
            self.faults.add(wanted[name], self.parts.clock.seconds())


def _stored(share: Share) -> StoredGroup:
    from agent.state.fleet import StoredGroup, group_columns  # only where there is a file

    return StoredGroup(share.first, share.first_segment, *group_columns(share.population))
