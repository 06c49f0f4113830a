"""Listening sockets, and their accept loop as a descriptor of the reactor."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from agent.errors import OperatorError
from agent.net.timing import Alarm, Reactor
from agent.net.transport.addresses import address_text

BACKLOG = 1024
_ACCEPTS_A_TURN = 64  # per turn of the reactor, so that its other descriptors are served, too
_PAUSE_SECONDS = 0.1  # without accepting, after the process ran out of descriptors
_PEER_GONE = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def listening_socket(
    host: str, port: int, *, what: str, interface: str = "", scope: int = 0, ipv6_only: bool = False
) -> socket.socket:
    """A non-blocking TCP socket that listens at ``host``; port 0 is any free one.

    ``interface`` limits it to one interface (Linux); ``scope`` is the index of the interface that has ``host``, where
    that is link-local (RFC 4007, 11). Raises OperatorError, which names ``what`` should listen.
    """
    sock: socket.socket | None = None
    try:
        family, _kind, _protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6_only:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((*address[:3], scope) if scope else address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise cannot_listen(what, host, port, error, interface) from error
    return sock


def cannot_listen(what: str, host: str, port: int, error: object, interface: str = "") -> OperatorError:
    """The error of ``what`` that cannot listen, because of ``error``."""
    reason = getattr(error, "strerror", None) or error
    where = f"port {port} of {interface}" if interface else address_text(host, port)
    if isinstance(error, PermissionError):
        advice = "Use a port from 1024, or run as root or with the capability CAP_NET_BIND_SERVICE."
    else:
        advice = "Choose another address or port; port 0 is any free one."
    return OperatorError(f"{what} cannot listen on {where}: {reason}. {advice}")


@implementer(IReadDescriptor)
class Listener:
    """Accepts connections from a listening socket. ``accepted`` is called with each peer's socket and TCP port."""

    def __init__(self, reactor: Reactor, sock: socket.socket, accepted: Callable[[socket.socket, int], None]) -> None:
        self._reactor = reactor
        self._socket = sock
        self._accepted = accepted
        self._pause = Alarm(reactor, self.resume)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Twisted's log prefix."""
        return "listener"

    def connectionLost(self, _reason: TwistedFailure) -> None:
        """The reactor stops, or an accept failed: close the socket."""
        self.close()

    def doRead(self) -> None:
        """Accept the connections that wait."""
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _PEER_GONE:
                    continue
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._reactor.removeReader(self)  # the socket stays readable: the reactor would call at once again
                self._pause.set(_PAUSE_SECONDS)
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # macOS raises it for a peer that is already gone
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock, address[1])

    def resume(self) -> None:
        """Accept connections."""
        self._reactor.addReader(self)

    def close(self) -> None:
        """Stop listening."""
        self._pause.cancel()
        self._reactor.removeReader(self)
        self._socket.close()
