"""A Mac as an endpoint of its LOM network: its LOM configuration, and its credentials on a link in each role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from cryptography import x509

from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.relay import Unreachable
from agent.pki.identity import Identity
from agent.pki.verify import PeerRejected, common_name


class LOMConfiguration(msgspec.Struct, frozen=True):
    """The content of a ``com.apple.lom`` payload. Source: apple-schema profiles/com.apple.lom.yaml."""

    device_identity: Identity | None = None
    """The Mac's identity as LOM Device; None if it is not a Device."""
    controller_identity: Identity | None = None
    """The Mac's identity as LOM Controller; None if it is not a Controller."""
    device_anchors: tuple[x509.Certificate, ...] = ()
    """CAs by which this Mac, as Controller, verifies Devices."""
    controller_anchors: tuple[x509.Certificate, ...] = ()
    """CAs by which this Mac, as Device, verifies Controllers."""

    @property
    def controller_name(self) -> str:
        """The CommonName by which Devices identify this Mac as Controller; empty if it has none."""
        try:
            return "" if self.controller_identity is None else common_name(self.controller_identity.certificate)
        except PeerRejected:  # every Device rejects such a certificate
            return ""


class NotSetUp(Unreachable):
    """The Mac has no LOM payload, or its payload lacks the required identity."""

    kind = "lom_not_set_up"


class Endpoint(Protocol):
    """A Mac as its LOM network sees it. It answers even while it is off."""

    @property
    def index(self) -> int:
        """The Mac's index in the fleet."""

    @property
    def segment(self) -> int:
        """The number of its subnet."""

    @property
    def lom_addresses(self) -> Sequence[str]:
        """Its link-local addresses, primary first."""

    @property
    def lom(self) -> LOMConfiguration | None:
        """Its LOM configuration, or None if no LOM payload is installed."""

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Carry out and answer a request from the Controller with this CommonName."""

    def unacknowledged_lom_answers(self, controller: str) -> Sequence[LinkAnswer]:
        """The recent answers that the Controller with this CommonName did not acknowledge, oldest first."""

    def lom_answer_arrived(self, uuid: str, controller: str, *, acknowledged: bool) -> None:
        """The Controller has acknowledged the answer to this DeviceRequestUUID, or its link has ended without that."""


class LinkSide(msgspec.Struct, frozen=True):
    """The credentials of one end of a LOM link."""

    identity: Identity
    anchors: tuple[x509.Certificate, ...]
    """CAs by which this end verifies the peer."""

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates that it sends in the TLS handshake, its own first."""
        return (self.identity.certificate, *self.identity.chain)


def is_device(endpoint: Endpoint) -> bool:
    """Whether the Mac is set up as a LOM Device."""
    return endpoint.lom is not None and endpoint.lom.device_identity is not None


def device_side(endpoint: Endpoint) -> LinkSide:
    """The Mac's credentials as Device. Raises NotSetUp."""
    if endpoint.lom is None or endpoint.lom.device_identity is None:
        raise NotSetUp("the Mac at this address is not set up as a LOM Device")
    return LinkSide(endpoint.lom.device_identity, endpoint.lom.controller_anchors)


def controller_side(endpoint: Endpoint) -> LinkSide:
    """The Mac's credentials as Controller. Raises NotSetUp: the payload may be removed while a command is running."""
    if endpoint.lom is None or endpoint.lom.controller_identity is None:
        raise NotSetUp("the Controller is no longer set up as a LOM Controller")
    return LinkSide(endpoint.lom.controller_identity, endpoint.lom.device_anchors)
