"""Both ends of a TLS stream for tests: an owner that takes notes, a reactor that stands still, a peer in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from OpenSSL import SSL
from servers import (
    AUTHORITY,
    HOST,
    IDENTITY,
    JOIN_SECONDS,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.errors import PeerError
from agent.net.transport.stream import TLSStream, start_connect
from agent.net.transport.tls import TLSContexts, make_context, use_identity
from agent.pki.identity import Identity
from agent.pki.verify import PeerCheck, controller_judge, server_judge


class Owner:
    """Records what a stream reports. ``ended`` fires with the error, ``opened`` with nothing."""

    def __init__(self) -> None:
        self.opened: Deferred[None] = Deferred()
        self.ended: Deferred[PeerError] = Deferred()
        self.octets = b""
        self.calls: list[str] = []
        self.on_secured: Callable[[], object] = lambda: None
        self.on_received: Callable[[], object] = lambda: None

    def secured(self) -> None:
        self.calls.append("secured")
        self.on_secured()
        self.opened.callback(None)

    def received(self, octets: bytes) -> None:
        self.octets += octets
        self.calls.append("received")
        self.on_received()

    def lost(self, error: PeerError) -> None:
        self.calls.append("lost")
        self.ended.callback(error)


class StillReactor(Clock):
    """A reactor whose time the test advances, and without socket events."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: set[object] = set()

    def addReader(self, reader: object) -> None:
        self.watched.add(reader)

    def addWriter(self, writer: object) -> None:
        self.watched.add(writer)

    def removeReader(self, reader: object) -> None:
        self.watched.discard(reader)

    def removeWriter(self, writer: object) -> None:
        self.watched.discard(writer)


def client_stream(
    port: int, owner: Owner, *, check: PeerCheck | None = None, identity: Identity | None = None
) -> TLSStream:
    from twisted.internet import reactor

    sock = start_connect(socket.AF_INET, (HOST, port))
    check = check or PeerCheck(server_judge(HOST))
    tls = TLSContexts().client(sock, [AUTHORITY.certificate], identity, check, HOST)
    stream = TLSStream(reactor, sock, tls, check, owner)
    stream.connect()
    return stream


@contextlib.contextmanager
def beside(work: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """One end of a pair of sockets, non-blocking; a thread works at the other one."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work(theirs)
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(JOIN_SECONDS)
        theirs.close()
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def accepting_stream(
    sock: socket.socket, owner: Owner, *, context: SSL.Context | None = None, optional: bool = False
) -> TLSStream:
    """The server's end as a LOM Device has it; with ``optional`` the peer may come without a certificate."""
    from twisted.internet import reactor

    check = PeerCheck(controller_judge)
    tls = SSL.Connection(context or make_context([AUTHORITY.certificate]), sock)
    use_identity(tls, IDENTITY)
    tls.set_verify(SSL.VERIFY_PEER | (0 if optional else SSL.VERIFY_FAIL_IF_NO_PEER_CERT), check)
    tls.set_accept_state()
    stream = TLSStream(reactor, sock, tls, check, owner)
    stream.accept()
    return stream


def peer(sock: socket.socket, identity: Identity | None = None, context: SSL.Context | None = None) -> SSL.Connection:
    """A client that owes nothing to the code under test, on a blocking socket; it trusts anyone."""
    connection = SSL.Connection(context or SSL.Context(SSL.TLS_CLIENT_METHOD), sock)
    if identity is not None:
        connection.use_certificate(identity.certificate)
        connection.use_privatekey(identity.key)
    connection.set_connect_state()
    return connection
