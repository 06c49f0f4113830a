"""A Mac as an endpoint of its LOM network: its configuration, and the sides of the link it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.relay import Unreachable
from agent.pki.identity import Identity
from agent.pki.verify import PeerRejected, common_name


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

    @property
    def controller_name(self) -> str:
        """The CommonName that others know this Mac by as Controller; empty where it has none."""
        try:
            return "" if self.controller_identity is None else common_name(self.controller_identity.certificate)
        except PeerRejected:  # no Device would listen to it
            return ""


class NotSetUp(Unreachable):
    """The Mac is there, but its LOM payload, or the part of it that is needed, is not."""

    kind = "lom_not_set_up"


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


@dataclass(frozen=True, slots=True)
class LinkSide:
    """What one Mac shows on a LOM link, and the CAs by which it judges what the other shows."""

    identity: Identity
    anchors: tuple[x509.Certificate, ...]

    @property
    def shown(self) -> tuple[x509.Certificate, ...]:
        """What it sends in the TLS handshake: its own certificate first."""
        return (self.identity.certificate, *self.identity.chain)


def is_device(endpoint: Endpoint) -> bool:
    """Whether the Mac is set up as a LOM Device."""
    return endpoint.lom is not None and endpoint.lom.device_identity is not None


def device_side(endpoint: Endpoint) -> LinkSide:
    """The Mac's side of a link as Device. Raises NotSetUp."""
    if endpoint.lom is None or endpoint.lom.device_identity is None:
        raise NotSetUp("the Mac at this address is not set up as a LOM Device")
    return LinkSide(endpoint.lom.device_identity, endpoint.lom.controller_anchors)


def controller_side(endpoint: Endpoint) -> LinkSide:
    """The Mac's side of a link as Controller. Raises NotSetUp: its payload may be gone since the command came."""
    if endpoint.lom is None or endpoint.lom.controller_identity is None:
        raise NotSetUp("the Controller is not set up as a LOM Controller any more")
    return LinkSide(endpoint.lom.controller_identity, endpoint.lom.device_anchors)
