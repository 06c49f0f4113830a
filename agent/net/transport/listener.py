"""Where peers come in: a listening socket as a descriptor of the reactor."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from agent.net.timing import DelayedCall, Reactor

_BACKLOG = 1024
_ACCEPTS_A_TURN = 64  # so that a flood of connections does not keep the reactor from everything else
_REST_SECONDS = 0.1  # in which a process that is out of descriptors accepts nothing
_THIS_PEER_IS_GONE = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def listening_socket(host: str, port: int, interface: str = "", scope: int = 0) -> socket.socket:
    """A TCP socket that listens on IPv6, and on one interface only where that is named (Linux). Raises OSError.

    ``scope`` is the index of the interface that has ``host``, where that is link-local (RFC 4007, 11).
    """
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((host, port, 0, scope))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


@implementer(IReadDescriptor)
class Listener:
    """A listening socket, as a descriptor of the reactor. ``accepted`` gets each peer's socket and its TCP port."""

    def __init__(self, reactor: Reactor, sock: socket.socket, accepted: Callable[[socket.socket, int], None]) -> None:
        self._reactor = reactor
        self._socket = sock
        self._accepted = accepted
        self._timer: DelayedCall | None = None

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Twisted's log prefix."""
        return "lom"

    def connectionLost(self, _reason: TwistedFailure) -> None:
        """The reactor gave up on the socket, at its end."""
        self.close()

    def doRead(self) -> None:
        """Peers wait to be accepted."""
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _THIS_PEER_IS_GONE:
                    continue
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._rest()
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # macOS says so of a peer that is gone already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock, address[1])

    def resume(self) -> None:
        """Accept peers."""
        self._timer = None
        self._reactor.addReader(self)

    def close(self) -> None:
        """Listen no longer."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._reactor.removeReader(self)
        self._socket.close()

    def _rest(self) -> None:
        """Let the peers wait: the socket stays readable, so that the reactor would do nothing else."""
        self._reactor.removeReader(self)
        self._timer = self._reactor.callLater(_REST_SECONDS, self.resume)
