"""Who is where in a segment, and the network that needs no sockets.

A Controller reaches the Devices of its own segment (subnet) and nobody else. ``AddressBook`` holds that for every kind
of network. ``MemoryNetwork`` carries the link without sockets: the certificates are judged as TLS would judge them, and
the frames are the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from agent.lom.link import ControllerLink, FrameReader, LinkAnswer, LinkError, LinkRequest, parse_request
from agent.lom.relay import Relay, Unreachable
from agent.lom.requests import Outcome, RelayItem
from agent.pki.identity import Identity
from agent.pki.verify import PeerRejected, controller_judge, device_judge, verify_chain


@dataclass(frozen=True, slots=True)
class LOMConfiguration:
    """What a ``com.apple.lom`` payload makes of a Mac. Source: apple-schema profiles/com.apple.lom.yaml.

    ``device_anchors`` judge the Devices that this Mac, as Controller, talks to; ``controller_anchors`` judge the
    Controllers that this Mac, as Device, listens to.
    """

    device_identity: Identity | None = None
    controller_identity: Identity | None = None
    device_anchors: tuple[x509.Certificate, ...] = ()
    controller_anchors: tuple[x509.Certificate, ...] = ()


class Endpoint(Protocol):
    """A Mac as its LOM network sees it. It answers also while it is off."""

    @property
    def index(self) -> int:
        """The Mac's index in the fleet."""

    @property
    def segment(self) -> int:
        """The number of the subnet that it is in."""

    @property
    def lom_addresses(self) -> Sequence[str]:
        """Its link-local addresses, primary first."""

    @property
    def lom(self) -> LOMConfiguration | None:
        """Its LOM configuration, or None where the payload is not installed."""

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Do what the Controller with this CommonName asks, and answer it."""


class AddressBook:
    """Which Mac has which address in which segment."""

    def __init__(self) -> None:
        self._endpoints: dict[tuple[int, str], Endpoint] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Put a Mac on the network, under all its addresses."""
        for address in endpoint.lom_addresses:
            self._endpoints[endpoint.segment, address] = endpoint

    def find(self, segment: int, address: str) -> Endpoint:
        """The Device that listens at ``address`` in ``segment``. Raises Unreachable."""
        endpoint = self._endpoints.get((segment, address))
        if endpoint is None:
            raise Unreachable(f"nobody answers at this address in segment {segment} of the Controller")
        if endpoint.lom is None or endpoint.lom.device_identity is None:
            raise Unreachable("the Mac at this address is not set up as a LOM Device")
        return endpoint


class MemoryNetwork:
    """A LOM network without sockets."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    def relay(self, controller: Endpoint, item: RelayItem) -> Outcome:
        """Carry one item from ``controller`` to its Device and return what came of it."""
        relay = Relay(item)
        while (address := relay.next_address()) is not None:
            try:
                device = self._book.find(controller.segment, address)
                name = self._shake_hands(controller, device, item.dns_name)
            except (Unreachable, PeerRejected) as error:
                relay.not_sent(address, error)
                continue
            try:
                relay.answered(self._exchange(relay.request, device, name))
            except LinkError as error:
                relay.sent_and_failed(address, error)
        return relay.outcome

    def _shake_hands(self, controller: Endpoint, device: Endpoint, expected: str) -> str:
        """Both ends judge the other's certificate, as in mutual TLS. Returns the Controller's CommonName."""
        ours, theirs = controller.lom, device.lom
        if ours is None or ours.controller_identity is None or theirs is None or theirs.device_identity is None:
            raise PeerRejected("one end of the link has no LOM identity")
        presented = theirs.device_identity
        verify_chain([presented.certificate, *presented.chain], ours.device_anchors, device_judge(expected))
        presented = ours.controller_identity
        return verify_chain([presented.certificate, *presented.chain], theirs.controller_anchors, controller_judge)

    def _exchange(self, request: LinkRequest, device: Endpoint, controller_name: str) -> LinkAnswer:
        link = ControllerLink(request)
        (message,) = FrameReader().receive(link.start())
        answer = link.receive(device.receive_lom_request(parse_request(message), controller_name).encode())
        if answer is None:
            raise link.closed()
        return answer
