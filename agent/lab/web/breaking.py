"""Defects of the lab that show when the connection of a Mac breaks; without one of them this is not used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from agent.lab.mdm.core import Lab
from agent.lab.web.connection import LabSite
from agent.lab.web.resources import Endpoint
from agent.net.http.server import BoundedRequest, BoundedSite, connection_of
from agent.pki.certificates import CertificateError, peer_certificate

_UNENROLLS = "survive-before-unenrolls"
_HALF = "survive-half-unenrolls"
_RESET = "survive-http2-unenrolls"


def lab_site(root: Any, lab: Lab, endpoints: Mapping[bytes, Endpoint]) -> BoundedSite:
    """The site of the lab."""
    if _RESET in lab.defects:
        return ResetSite(root, lab)
    return LabSite(root, endpoints) if lab.defects.isdisjoint((_UNENROLLS, _HALF)) else BreakingSite(root, lab)


class BreakingSite(BoundedSite):
    """The lab's site, which forgets a Mac whose connection was reset before its first request, or within one."""

    def __init__(self, root: Any, lab: Lab) -> None:
        super().__init__(root)
        self._lab = lab

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone: of HTTP/2 twisted.web does not tell whether a request is half sent."""
        return [b"http/1.1"]

    def buildProtocol(self, address: Any) -> Any:
        """The protocol of a new connection."""
        base: Any = super()
        protocol = base.buildProtocol(address)
        lost = protocol.connectionLost

        def connection_lost(reason: Any) -> None:
            if not reason.check(ConnectionDone):
                self._broke(protocol._channel)  # twisted.web has no other way to the requests of a connection
            lost(reason)

        protocol.connectionLost = connection_lost
        return protocol

    def _broke(self, channel: Any) -> None:
        half = any("uri" not in vars(request) for request in channel.requests)  # set when one is complete
        unused = not channel.requests and not hasattr(channel.transport, "lab_peer")
        if (half and _HALF in self._lab.defects) or (unused and _UNENROLLS in self._lab.defects):
            _forget_peer(self._lab, channel)


class ResetSite(BoundedSite):
    """The lab's site, which forgets a Mac whose request over HTTP/2 was reset before its end."""

    def __init__(self, root: Any, lab: Lab) -> None:
        super().__init__(root, requests=_ResetRequest)
        self.lab = lab


class _ResetRequest(BoundedRequest):
    def connectionLost(self, reason: Failure) -> None:
        """The stream or the connection ended."""
        stream: Any = self.channel
        if "uri" not in vars(self):  # set when the request is complete
            _forget_peer(stream.site.lab, connection_of(self))
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


def _forget_peer(lab: Lab, connection: Any) -> None:
    try:
        certificate = peer_certificate(connection.transport.getHandle())
    except CertificateError:
        return
    if certificate is not None:
        lab.forget_owner(certificate.fingerprint(hashes.SHA256()))
