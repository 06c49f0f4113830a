"""Address resolution within a segment, and the LOM network without sockets.

A Controller reaches only the Devices of its own segment (subnet). ``AddressBook`` resolves addresses for every kind of
network. ``MemoryNetwork`` carries links without sockets: it verifies certificates as TLS does, and encodes and decodes
the same frames.
"""

from __future__ import annotations

from typing import Protocol

from agent.errors import MisuseError, PeerError
from agent.lom.endpoint import Endpoint, LinkSide, controller_side, device_side
from agent.lom.link import (
    Acknowledgement,
    ControllerLink,
    DeviceLink,
    LinkAnswer,
    LinkError,
    LinkRequest,
    RequestDelayed,
    VersionUnsupported,
)
from agent.lom.relay import Relay, Unreachable
from agent.lom.requests import RelayItem, RelayOutcome
from agent.pki.purpose import Purpose
from agent.pki.verify import PeerRejected, controller_judge, device_judge, verify_chain


class MacDirectory(Protocol):
    """A fleet whose Macs are found by calculation instead of in a list."""

    def at_address(self, segment: int, address: str) -> Endpoint | None:
        """The Mac with this address in this segment."""

    def at_name(self, dns_name: str) -> Endpoint | None:
        """The Mac with this DNS name (in lower case)."""


class AddressBook:
    """Finds a Mac by segment and address: first among the Macs added one by one, then in ``macs``, a whole fleet."""

    def __init__(self) -> None:
        self.macs: MacDirectory | None = None
        self._endpoints: dict[tuple[int, str], Endpoint] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Add a Mac under all its addresses."""
        for address in endpoint.lom_addresses:
            self._endpoints[endpoint.segment, address] = endpoint

    def remove(self, endpoint: Endpoint) -> None:
        """Remove a Mac; an address that another Mac has taken since is kept."""
        for address in endpoint.lom_addresses:
            if self._endpoints.get((endpoint.segment, address)) is endpoint:
                del self._endpoints[endpoint.segment, address]

    def find(self, segment: int, address: str) -> Endpoint:
        """The Device at ``address`` in ``segment``. Raises Unreachable."""
        endpoint = self._endpoints.get((segment, address))
        if endpoint is None and self.macs is not None:
            endpoint = self.macs.at_address(segment, address)
        if endpoint is None:
            raise Unreachable(f"no Mac answers at this address in segment {segment} of the Controller")
        device_side(endpoint)
        return endpoint


class ControllerRejected(PeerError):
    """The Device refused the Controller's certificate."""

    kind = "tls_refused"


class MemoryNetwork:
    """A LOM network without sockets. The outcome of an item is the same as over TLS 1.3."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    def relay(self, controller: Endpoint, item: RelayItem) -> RelayOutcome:
        """Relay one item from ``controller`` to its Device and return the outcome."""
        relay = Relay(item)
        while (address := relay.next_address()) is not None:
            self.attempt(controller, relay, address)
        return relay.outcome

    def attempt(self, controller: Endpoint, relay: Relay, address: str) -> str:
        """Try one address and report the result to ``relay``. Return the name of the Device, or an empty string."""
        try:
            ours = controller_side(controller)
            device = self._book.find(controller.segment, address)
            theirs = device_side(device)
            peer = verify_chain(
                theirs.certificates, ours.anchors, device_judge(relay.item.dns_name), Purpose.TLS_SERVER
            )
        except (Unreachable, PeerRejected) as error:
            relay.not_sent(address, error)
            return ""
        try:  # with TLS 1.3 the Controller has sent its request before the Device has verified its certificate
            name = self._admitted(ours, theirs)
            relay.answered(self._exchange(relay.request, device, name))
        except (LinkError, ControllerRejected) as error:
            relay.sent_and_failed(address, error)
        return peer

    def _admitted(self, controller: LinkSide, device: LinkSide) -> str:
        """The CommonName by which the Device identifies the Controller. Raises ControllerRejected."""
        try:
            return verify_chain(controller.certificates, device.anchors, controller_judge, Purpose.TLS_CLIENT)
        except PeerRejected as error:
            raise ControllerRejected(f"the Device refused our certificate: {error}") from error

    def _exchange(self, request: LinkRequest, device: Endpoint, controller_name: str) -> LinkAnswer:
        controller_end, device_end = ControllerLink(request), DeviceLink()
        device_end.receive(controller_end.start())
        repeated = b""
        try:
            asked = device_end.next_message()
            if not isinstance(asked, LinkRequest):
                raise MisuseError("the encoded LOM request is incomplete")
            if asked.acknowledges:
                unacknowledged = device.unacknowledged_lom_answers(controller_name)
                repeated = device_end.repeat(each for each in unacknowledged if each.uuid != asked.uuid)
            answered = device.receive_lom_request(asked, controller_name)
        except VersionUnsupported as error:
            answered = error.answer
        except RequestDelayed as delayed:  # a link takes no time here
            answered = delayed.carry_out()
        answer = controller_end.receive(repeated + device_end.answer(answered))
        if answer is None:
            raise controller_end.closed("its answer is incomplete")
        device_end.receive(controller_end.take_acknowledgements())
        while isinstance(acknowledged := device_end.next_message(), Acknowledgement):
            device.lom_answer_arrived(acknowledged.uuid, controller_name, acknowledged=True)
        return answer
