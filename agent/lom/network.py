"""Who is where in a segment, and the network that needs no sockets.

A Controller reaches the Devices of its own segment (subnet) and nobody else. ``AddressBook`` holds that for every kind
of network. ``MemoryNetwork`` carries the link without sockets: the certificates are judged as TLS would judge them, and
the frames are the same bytes.
"""

from __future__ import annotations

from typing import Protocol

from agent.errors import MisuseError, PeerError
from agent.lom.endpoint import Endpoint, LinkSide, controller_side, device_side
from agent.lom.link import ControllerLink, DeviceLink, LinkAnswer, LinkError, LinkRequest
from agent.lom.relay import Relay, Unreachable
from agent.lom.requests import Outcome, RelayItem
from agent.pki.purpose import Purpose
from agent.pki.verify import PeerRejected, controller_judge, device_judge, verify_chain


class Neighbourhood(Protocol):
    """Macs that are found by calculation, so that nobody has to keep a list of them."""

    def at_address(self, segment: int, address: str) -> Endpoint | None:
        """The Mac that has this address in this segment."""

    def at_name(self, dns_name: str) -> Endpoint | None:
        """The Mac with this DNS name, in lower case."""


class AddressBook:
    """Which Mac has which address in which segment: those put in one by one, and beside them a whole neighbourhood."""

    def __init__(self) -> None:
        self.macs: Neighbourhood | None = None
        self._endpoints: dict[tuple[int, str], Endpoint] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Put a Mac on the network, under all its addresses."""
        for address in endpoint.lom_addresses:
            self._endpoints[endpoint.segment, address] = endpoint

    def remove(self, endpoint: Endpoint) -> None:
        """Take a Mac off the network; an address that is another's by now stays his."""
        for address in endpoint.lom_addresses:
            if self._endpoints.get((endpoint.segment, address)) is endpoint:
                del self._endpoints[endpoint.segment, address]

    def find(self, segment: int, address: str) -> Endpoint:
        """The Device that listens at ``address`` in ``segment``. Raises Unreachable."""
        endpoint = self._endpoints.get((segment, address))
        if endpoint is None and self.macs is not None:
            endpoint = self.macs.at_address(segment, address)
        if endpoint is None:
            raise Unreachable(f"nobody answers at this address in segment {segment} of the Controller")
        device_side(endpoint)
        return endpoint


class ControllerRejected(PeerError):
    """The Device refused the Controller's certificate."""

    kind = "tls_refused"


class MemoryNetwork:
    """A LOM network without sockets. What comes of an item is what comes of it over TLS 1.3."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    def relay(self, controller: Endpoint, item: RelayItem) -> Outcome:
        """Carry one item from ``controller`` to its Device and return what came of it."""
        relay = Relay(item)
        while (address := relay.next_address()) is not None:
            self.attempt(controller, relay, address)
        return relay.outcome

    def attempt(self, controller: Endpoint, relay: Relay, address: str) -> str:
        """Try one address; ``relay`` hears what came of it. Return the name of the Device that was asked."""
        try:
            ours = controller_side(controller)
            device = self._book.find(controller.segment, address)
            theirs = device_side(device)
            peer = verify_chain(theirs.shown, ours.anchors, device_judge(relay.item.dns_name), Purpose.TLS_SERVER)
        except (Unreachable, PeerRejected) as error:
            relay.not_sent(address, error)
            return ""
        try:  # the Controller has sent its request before it hears what the Device thinks of its certificate
            name = self._admitted(ours, theirs)
            relay.answered(self._exchange(relay.request, device, name))
        except (LinkError, ControllerRejected) as error:
            relay.sent_and_failed(address, error)
        return peer

    def _admitted(self, controller: LinkSide, device: LinkSide) -> str:
        """The CommonName by which the Device knows the Controller. Raises ControllerRejected."""
        try:
            return verify_chain(controller.shown, device.anchors, controller_judge, Purpose.TLS_CLIENT)
        except PeerRejected as error:
            raise ControllerRejected(f"the Device refused our certificate: {error}") from error

    def _exchange(self, request: LinkRequest, device: Endpoint, controller_name: str) -> LinkAnswer:
        controller_end, device_end = ControllerLink(request), DeviceLink()
        device_end.receive(controller_end.start())
        asked = device_end.next_request()
        if asked is None:
            raise MisuseError("a LOM request that is not whole")
        answer = controller_end.receive(device_end.answer(device.receive_lom_request(asked, controller_name)))
        if answer is None:
            raise controller_end.closed("its answer is not whole")
        return answer
