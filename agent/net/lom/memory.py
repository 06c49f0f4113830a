"""The LOM network without sockets, for large fleets that test only the MDM server.

``agent.lom.network.MemoryNetwork`` runs a link within one call; here the links are spread over turns of the reactor, so
that a long list of items does not block it, and each link is recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.lom.endpoint import Endpoint
from agent.lom.network import AddressBook, MacDirectory, MemoryNetwork
from agent.lom.relay import Relay, Unreachable
from agent.lom.requests import RelayItem, RelayOutcome
from agent.measure.operations import Operation, Operations
from agent.net.lom.controller import RelayAbandoned, link_facts, verdict_of
from agent.net.timing import Alarm, Clock

_LINKS_A_TURN = 16  # about 10 ms: each verifies two certificate chains


class MemoryLOMNetwork:
    """The LOM network of one process, in its memory."""

    def __init__(self, reactor: Clock, book: AddressBook, operations: Operations) -> None:
        self.reactor = reactor
        self.operations = operations
        self.closed = False
        self._book = book
        self._links = MemoryNetwork(book)
        self._relays: set[_MemoryRelays] = set()

    def join(self, macs: MacDirectory) -> bool:
        """Put all of these on the network; single Macs need not be added."""
        self._book.macs = macs
        return True

    def add(self, endpoint: Endpoint, _dns_name: str) -> None:
        """Put a Mac on the network."""
        self._book.add(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        """Take a Mac off the network."""
        self._book.remove(endpoint)

    def lom_changed(self, _endpoint: Endpoint) -> None:
        """Do nothing: a link ends within the call that starts it."""

    def listen(self) -> None:
        """Do nothing: there is no socket."""

    def close(self) -> None:
        """Fail what is being relayed, and all later requests."""
        self.closed = True
        for relays in list(self._relays):
            relays.give_up(RelayAbandoned("the LOM network was closed"))

    def relay(self, controller: Endpoint, items: Sequence[RelayItem]) -> Deferred[list[RelayOutcome]]:
        """Carry items from a Controller to their Devices; the outcomes in the items' order.

        The Deferred never fails, and never fires before this returns. Cancel it where the Controller loses power.
        """
        relays = _MemoryRelays(self, controller, items)
        self._relays.add(relays)
        relays.done.addCallback(self._relayed, relays)
        return relays.done

    def attempt(self, controller: Endpoint, relay: Relay, address: str) -> str:
        """Try one address. Return the name of the Device that was asked, if any was."""
        if self.closed:
            relay.not_sent(address, Unreachable("the LOM network is closed"))
            return ""
        return self._links.attempt(controller, relay, address)

    def _relayed(self, outcomes: list[RelayOutcome], relays: _MemoryRelays) -> list[RelayOutcome]:
        self._relays.discard(relays)
        return outcomes


class _MemoryRelays:
    """The items of one command, a few links in each turn of the reactor."""

    def __init__(self, network: MemoryLOMNetwork, controller: Endpoint, items: Sequence[RelayItem]) -> None:
        self.done: Deferred[list[RelayOutcome]] = Deferred(
            lambda _: self.give_up(RelayAbandoned("the Controller stopped before an answer came"))
        )
        self._network = network
        self._controller = controller
        self._waiting = deque(Relay(item) for item in items)
        self._outcomes: list[RelayOutcome] = []
        self._address = ""  # the one being tried
        self._link: Operation | None = None  # that of the current attempt
        self._over = False
        self._next_turn = Alarm(network.reactor, self._turn)
        self._next_turn.set(0.0)

    def give_up(self, error: PeerError) -> None:
        """Items without an outcome fail with ``error``."""
        if self._over:
            return
        self._over = True
        self._next_turn.cancel()
        if self._address:  # the current request stops its own Controller
            self._end_link(self._waiting[0], error, self._address, sent=True)
        self._outcomes += [RelayOutcome(relay.item.uuid, str(error)) for relay in self._waiting]
        self.done.callback(self._outcomes)

    def _turn(self) -> None:
        for _ in range(_LINKS_A_TURN):
            self._settle()
            if self._over:
                return
            if not self._waiting:
                self._over = True
                self.done.callback(self._outcomes)
                return
            self._attempt(self._waiting[0])
        if not self._over:
            self._next_turn.set(0.0)

    def _settle(self) -> None:
        """Move finished items to the outcomes, up to the first one that has an address to try."""
        while self._waiting and not self._over:
            address = self._waiting[0].next_address()
            if address is not None:
                self._address = address
                return
            self._outcomes.append(self._waiting.popleft().outcome)

    def _attempt(self, relay: Relay) -> None:
        now = self._network.operations.now()
        self._link = self._network.operations.begin("lom_link", self._controller.index, now)
        peer = self._network.attempt(self._controller, relay, self._address)
        if self._over:
            return
        address, self._address = self._address, ""
        if relay.decided:  # before the observer can close the network because of it
            self._outcomes.append(self._waiting.popleft().outcome)
        self._end_link(relay, relay.failure, address, peer, sent=bool(peer))

    def _end_link(self, relay: Relay, error: PeerError | None, address: str, peer: str = "", *, sent: bool) -> None:
        facts: dict[str, str | int | float | bool] = {"network": "memory"}
        if peer:
            facts["peer"] = peer
        link, self._link = self._link, None
        if link is not None:
            link.end(error, {**link_facts(self._controller, relay.item, address, verdict_of(error, sent)), **facts})
