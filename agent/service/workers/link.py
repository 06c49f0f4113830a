"""One end of the link between the front and a worker: a Unix socket that both have from the start."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from agent.errors import PeerError
from agent.framing import FrameReader, frame
from agent.service.workers.messages import MAX_FRAME_BYTES, Message, decode, encode


@implementer(IPushProducer)
class WorkerLink(Protocol):
    """``received`` is called with each message, ``lost`` once, with the reason, unless ``close`` was called before."""

    def __init__(self, received: Callable[[Message], object], lost: Callable[[str], object]) -> None:
        self._received = received
        self._lost = lost
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self._open: Any = None  # the transport, while the link is open
        self.paused = False
        """Whether the other end does not read."""
        self.on_resume: Callable[[], object] = lambda: None

    def send(self, message: Message) -> None:
        """Send a message; do nothing where the link is closed."""
        if self._open is not None:
            self._open.write(frame(encode(message)))

    def close(self) -> None:
        """Close the link, after everything is sent; ``lost`` is not called."""
        self._lost = lambda _reason: None
        if self._open is not None:
            self._open.unregisterProducer()
            self._open.loseConnection()

    # What Twisted calls.

    def connectionMade(self) -> None:
        """The link is open."""
        transport: Any = self.transport
        self._open = transport
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        self._reader.receive(data)
        try:
            while (body := self._reader.next_frame()) is not None:
                self._received(decode(body))
        except PeerError as error:
            transport = self._open
            self._end(str(error))
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other end is gone."""
        del reason
        self._end("its link is closed")

    def pauseProducing(self) -> None:
        """The other end does not read."""
        self.paused = True

    def resumeProducing(self) -> None:
        """The other end reads again."""
        self.paused = False
        self.on_resume()

    def stopProducing(self) -> None:
        """The link is closed."""

    def _end(self, reason: str) -> None:
        self._open = None
        lost, self._lost = self._lost, lambda _reason: None
        lost(reason)


def open_link(
    reactor: Any, sock: socket.socket, received: Callable[[Message], object], lost: Callable[[str], object]
) -> WorkerLink:
    """A link over this socket, which it takes."""
    link = WorkerLink(received, lost)
    sock.setblocking(False)
    with sock:
        reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: link))
    return link
