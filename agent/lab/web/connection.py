"""A connection to the lab: reads HTTP/2 or HTTP/1.1, answers the requests for endpoints at once, without twisted.web.

twisted.web answers the others: those of the lab's API and of ACME.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger

from agent.lab.web.http1 import HTTP1Requests
from agent.lab.web.http2 import HTTP2Requests
from agent.lab.web.requests import LabAnswer, LabRequest
from agent.lab.web.resources import Endpoint
from agent.net.http.server import BoundedSite
from agent.net.timing import Alarm

_TIMEOUT_SECONDS = 60.0  # without a byte of the client
_ABORT_SECONDS = 15.0  # after the close of a connection, for a client that does not close it
_log = Logger()


class Requests(Protocol):
    """What reads the requests of a connection, in one version of HTTP."""

    def received(self, octets: bytes) -> None:
        """Bytes of the client."""

    def timed_out(self) -> None:
        """The connection is about to be closed, because the client was quiet."""

    def lost(self, reason: Any) -> None:
        """The connection has ended."""


class LabSite(BoundedSite):
    """A site with ``endpoints``, by path; requests for other paths are those of the resource ``root``.

    ``keeps`` decides by the header of a request for an endpoint whether its body is kept, or discarded.
    """

    def __init__(self, root: Any, endpoints: Mapping[bytes, Endpoint]) -> None:
        super().__init__(root)
        self.endpoints = endpoints
        self.keeps: Callable[[LabRequest], bool] = lambda _request: True

    def buildProtocol(self, address: Any) -> Any:
        """The protocol of a new connection."""
        return LabConnection(self, lambda: self.protocol_of_twisted(address))

    def protocol_of_twisted(self, address: Any) -> Any:
        """A protocol of twisted.web, which is given a connection of HTTP/1.1 as a whole."""
        base: Any = super()
        return base.buildProtocol(address)

    def answer(self, endpoint: Endpoint, request: LabRequest) -> LabAnswer:
        """The response of an endpoint; a fault of the lab's own is answered with 500."""
        try:
            return endpoint.respond(request)
        except Exception:  # noqa: BLE001 - a defect in one answer must not end the lab, as in twisted.web
            _log.failure("the request was not answered")
            return LabAnswer(500, "", b"")


class LabConnection(TwistedProtocol):
    """One connection. A client that does not take its responses is not read."""

    def __init__(self, site: LabSite, twisted_protocol: Callable[[], Any]) -> None:
        self.site = site
        self._twisted_protocol = twisted_protocol
        self._requests: Requests | None = None
        self._twisted: Any = None
        self._closing = False
        self._clock: Any = site.reactor
        self._alarm = Alarm(self._clock, self._timed_out)
        self._timeout = float(site.timeOut or _TIMEOUT_SECONDS)
        self._heard = 0.0

    def connectionMade(self) -> None:
        """The connection is there; of TLS the handshake is still to come."""
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self._heard = self._clock.seconds()
        self._alarm.set(self._timeout)

    def dataReceived(self, octets: bytes) -> None:
        """Bytes of the client."""
        if self._twisted is not None:
            self._twisted.dataReceived(octets)
            return
        if self._closing:
            return
        if self._requests is None:
            of_http2 = getattr(self.transport, "negotiatedProtocol", None) == b"h2"
            self._requests = HTTP2Requests(self) if of_http2 else HTTP1Requests(self)
        self._heard = self._clock.seconds()
        self._requests.received(octets)

    def connectionLost(self, reason: Any = None) -> None:
        """The connection has ended."""
        if self._twisted is not None:
            self._twisted.connectionLost(reason)
            return
        self._alarm.cancel()
        if self._requests is not None:
            self._requests.lost(reason)

    def _timed_out(self) -> None:
        """The client was quiet for too long, or does not close the connection."""
        transport: Any = self.transport
        if self._closing:
            transport.abortConnection()
            return
        left = self._heard + self._timeout - self._clock.seconds()
        if left > 0:
            self._alarm.set(left)
            return
        if self._requests is not None:
            self._requests.timed_out()
        self.close()

    # For the reader of requests.

    def write(self, octets: bytes) -> None:
        """Send bytes."""
        transport: Any = self.transport
        transport.write(octets)

    def close(self) -> None:
        """Close the connection, after what was written."""
        transport: Any = self.transport
        self._closing = True
        self._alarm.set(_ABORT_SECONDS)
        transport.unregisterProducer()
        transport.resumeProducing()  # to see the client's end
        transport.loseConnection()

    def hand_over(self, octets: bytes) -> None:
        """Have twisted.web read the connection from these bytes on."""
        transport: Any = self.transport
        self._alarm.cancel()
        transport.unregisterProducer()
        self._twisted = self._twisted_protocol()
        self._twisted.makeConnection(transport)
        self._twisted.dataReceived(octets)

    # Of the transport, of which this is the producer.

    def pauseProducing(self) -> None:
        """The client does not take what was sent."""
        transport: Any = self.transport
        transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It does again."""
        transport: Any = self.transport
        transport.resumeProducing()

    def stopProducing(self) -> None:
        """The connection ends, of which ``connectionLost`` tells."""
