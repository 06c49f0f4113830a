"""One TLS connection as a descriptor of the reactor, without Twisted's TLS transport: this is the hot path.

``SSL.Connection`` works on the non-blocking socket itself, so that bytes are copied once. Clients (the MDM client, the
LOM Controller) call ``connect``, servers (the LOM Device, the APNs gateway) call ``accept``.

::

    CONNECTING --> HANDSHAKING --> OPEN --> CLOSED
         +---------------+-----------+---------^
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from enum import Enum, auto
from typing import Protocol

import msgspec
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from agent.errors import MisuseError, PeerError
from agent.net.timing import DelayedCall, Reactor, extended_deadline, when_read
from agent.net.transport.errors import (
    ConnectFailed,
    ConnectionBroken,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeTimeout,
    broken,
    ended,
    handshake_error,
)
from agent.net.transport.openssl_direct import RECEIVE_BYTES, handle_of, receive, send
from agent.net.transport.plain import PlainConnection
from agent.net.transport.tls import Check, forget_errors
from agent.pki.verify import PeerRejected

_BYTES_A_TURN = 256 * 1024  # written per turn of the reactor, so that its other descriptors are served, too
_CORK = getattr(socket, "TCP_CORK", None)  # Linux, tcp(7): what is written leaves with the end of the connection
_IP_BIND_ADDRESS_NO_PORT = 24  # Linux, ip(7): the port is chosen when the peer is known; Python names it from 3.12
_RECORD_BYTES = 16384  # RFC 8446, 5.1: what is not longer leaves in one piece


class Timeouts(msgspec.Struct, frozen=True):
    """How long to wait for a server, in seconds. The limits of macOS are undocumented."""

    connect: float = 10.0
    """For TCP, for each address of the server's name."""
    handshake: float = 15.0
    """For TLS."""
    answer: float = 60.0
    """From the first byte of the request to the last byte of the response."""


DEFAULT_TIMEOUTS = Timeouts()


class StreamOwner(Protocol):
    """The user of a stream. There are no calls after ``lost``, nor after the owner called ``close``."""

    def secured(self) -> None:
        """The handshake is done and the peer is verified."""

    def received(self, octets: bytes) -> None:
        """Bytes arrived."""

    def lost(self, error: PeerError) -> None:
        """The connection failed or ended."""


class State(Enum):
    """The state of a stream."""

    CONNECTING = auto()
    HANDSHAKING = auto()
    OPEN = auto()
    CLOSED = auto()


@implementer(IReadDescriptor, IWriteDescriptor)
class TLSStream:
    """A TLS connection over a non-blocking socket. Its events are reported to ``owner``.

    ``connected_at`` is when the TCP connection of ``connect`` was established, in seconds on the reactor's clock.
    """

    __slots__ = (
        "_due",
        "_handle",
        "_heard",
        "_out",
        "_owner",
        "_reactor",
        "_sent",
        "_socket",
        "_timeouts",
        "_timer",
        "_writing",
        "check",
        "connected_at",
        "peer_name",
        "state",
        "tls",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        tls: SSL.Connection | PlainConnection,
        check: Check,
        owner: StreamOwner,
        *,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self.tls = tls
        self._handle = handle_of(tls)
        self.check = check
        self._owner = owner
        self._timeouts = timeouts
        self._out = b""
        self._sent = 0  # how much of _out was sent
        self._heard = False  # application data, so the peer has accepted our certificate
        self._writing = False
        self._timer: DelayedCall | None = None
        self._due = 0.0  # the deadline of connect or handshake, in seconds on the reactor's clock
        self.connected_at: float | None = None
        self.peer_name = ""
        self.state = State.CONNECTING

    def connect(self) -> None:
        """Wait for the socket's connect, which was started, then do the handshake."""
        self._due = self._reactor.seconds() + self._timeouts.connect
        self._arm(min(self._timeouts.connect, self._timeouts.handshake))  # one timer for both
        self._want_write(True)

    def accept(self) -> None:
        """Do the handshake on an accepted socket."""
        self.state = State.HANDSHAKING
        self._due = self._reactor.seconds() + self._timeouts.handshake
        self._arm(self._timeouts.handshake)
        self._reactor.addReader(self)

    def write(self, octets: bytes) -> None:
        """Send bytes, at once or when the socket is writable. Raises MisuseError unless the stream is open."""
        if self.state is not State.OPEN:
            raise MisuseError(f"write() on a stream that is {self.state.name}")
        self._out = self._out[self._sent :] + octets if self._out else octets
        self._sent = 0
        if not self._writing:
            self._flush()

    def close(self, last: bytes = b"") -> None:
        """Write ``last`` and close with close_notify, in one segment. Bytes that are still unsent are dropped."""
        if self.state is State.OPEN:
            if _CORK is not None:
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
            if last:
                self.write(last)  # may end the stream
        if self.state is State.OPEN:
            self._notify_close()
        self._release()

    def abort(self) -> None:
        """Reset the TCP connection without close_notify, as on power loss."""
        if self.state is not State.CLOSED:
            with contextlib.suppress(OSError):  # macOS refuses it on a connection that the peer has reset
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._release()

    @property
    def secured(self) -> bool:
        """Whether the handshake was completed and the peer verified."""
        return bool(self.peer_name)

    @property
    def unsent(self) -> bool:
        """Whether written bytes are still unsent."""
        return bool(self._out)

    @property
    def unsent_bytes(self) -> int:
        """How many written bytes are still unsent."""
        return len(self._out) - self._sent

    @property
    def version(self) -> str:
        """The TLS version agreed on, such as ``TLSv1.3``."""
        return self.tls.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """The cipher suite agreed on."""
        return self.tls.get_cipher_name() or ""

    # Reactor callbacks.

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return -1 if self.state is State.CLOSED else self._socket.fileno()

    def logPrefix(self) -> str:
        """Twisted's log prefix."""
        return "tls"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the connection end, or one of our calls raise.

        Whether it reports an end or bytes to read depends on timing, so an end is read like bytes: one error for both.
        """
        if not isinstance(reason.value, ConnectionDone | ConnectionLost):
            if self.state is not State.CLOSED:
                self._lose(ConnectionBroken(f"closed after an error of this program: {reason.getErrorMessage()}"))
            return
        try:
            self.doRead()
            while self.state is State.OPEN and self._receive():
                pass
        finally:
            if self.state is not State.CLOSED:
                handshaking = self.state is not State.OPEN
                self._lose(ended(in_handshake=handshaking, before_any_answer=not self._heard))

    def doRead(self) -> None:
        """The socket can be read."""
        if self.state is State.CONNECTING:
            self._finish_connect()
            return
        if self.state is State.HANDSHAKING:
            self._shake_hands()
            if self.connected_at is not None:
                return  # a client asks first; a server may find the request behind the client's handshake
        if self.state is State.OPEN:
            self._receive()

    def doWrite(self) -> None:
        """The socket is writable."""
        if self.state is State.CONNECTING:
            self._finish_connect()
        elif self.state is State.HANDSHAKING:
            self._shake_hands()
        elif self.state is State.OPEN:
            self._flush()

    # The steps.

    def _finish_connect(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lose(ConnectFailed(f"the TCP connection failed: {os.strerror(code)}", code))
            return
        self.connected_at = self._reactor.seconds()
        self._due = self.connected_at + self._timeouts.handshake
        self.state = State.HANDSHAKING
        self._reactor.addReader(self)
        self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            self._want_write(False)
        except SSL.WantWriteError:
            self._want_write(True)
        except SSL.Error as error:
            self._lose(self.check.rejected or handshake_error(error))
        else:
            self._opened()

    def _opened(self) -> None:
        try:
            self.peer_name = self.check.name
        except PeerRejected as error:
            self._lose(error)
            return
        self._disarm()
        self._want_write(False)
        self.state = State.OPEN
        self._owner.secured()

    def _receive(self) -> bool:
        """Read once; return whether there were bytes."""
        handle = self._handle
        try:
            octets = self.tls.recv(RECEIVE_BYTES) if handle is None else receive(self.tls, handle)
        except (SSL.WantReadError, SSL.WantWriteError):
            return False
        except SSL.ZeroReturnError:
            self._notify_close()  # RFC 5246, 7.2.1: the other end answers with its own
            self._lose(ConnectionClosed("the peer closed the connection"))
        except SSL.Error as error:
            self._lose(broken(error, before_any_answer=not self._heard))
        else:
            self._heard = True
            self._owner.received(octets)
            return True
        return False

    def _flush(self) -> None:
        """Send what the socket accepts, up to one turn's bytes, and nothing while input is pending.

        After a failed write OpenSSL reads no more, and what the peer sent before it closed (an alert, an early
        response) would be lost. So pending input is read first.
        """
        octets = self._out
        try:
            if self._handle is not None and self._heard and not self._sent and 0 < len(octets) <= _RECORD_BYTES:
                self._sent = send(self.tls, self._handle, octets)
            else:
                self._send_much(memoryview(octets))
        except (SSL.WantWriteError, SSL.WantReadError):
            self._want_write(True)
            return
        except SSL.Error as error:
            self._lose(broken(error, before_any_answer=not self._heard))
            return
        if self._sent < len(octets):
            self._want_write(True)
        else:
            self._out = b""
            self._sent = 0
            if self._writing:
                self._want_write(False)

    def _send_much(self, rest: memoryview) -> None:
        end = min(len(rest), self._sent + _BYTES_A_TURN)
        careful = not self._heard
        while self._sent < end and not (careful and self._input_pending()):
            self._sent += self.tls.send(rest[self._sent :])
            careful = True

    def _input_pending(self) -> bool:
        """Whether bytes or the end of the stream can be read. Raises SysCallError: the system reports an error once."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as error:
            raise SSL.SysCallError(error.errno, error.strerror) from error
        return True

    def _notify_close(self) -> None:
        try:
            self.tls.shutdown()
        except SSL.Error:  # the peer has already closed
            forget_errors()

    def _lose(self, error: PeerError) -> None:
        self._release()
        self._owner.lost(error)

    def _release(self) -> None:
        if self.state is State.CLOSED:
            return
        self._disarm()
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self.state = State.CLOSED
        self._out = b""
        self._sent = 0
        self._socket.close()

    def _want_write(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._reactor.addWriter(self)
        elif not wanted and self._writing:
            self._reactor.removeWriter(self)
        self._writing = wanted

    def _arm(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._timed_out)

    def _timed_out(self) -> None:
        now = self._reactor.seconds()
        self._due = extended_deadline(self._due, now)
        left = self._due - now
        if left > 0.0:
            self._arm(left)
        else:
            when_read(self._reactor, self._expired)

    def _expired(self) -> None:
        """The time limit is over, unless a step ended while what can be read was read."""
        left = self._due - self._reactor.seconds()
        if self._timer is None or self._timer.active() or self.state not in (State.CONNECTING, State.HANDSHAKING):
            return
        if left > 0.0:  # the connection is there: the handshake has its own limit
            self._arm(left)
        elif self.state is State.CONNECTING:
            self._lose(ConnectTimeout(f"no TCP connection within {self._timeouts.connect:g} s"))
        else:
            self._lose(HandshakeTimeout(f"no TLS handshake within {self._timeouts.handshake:g} s"))

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


SocketAddress = tuple[str, int] | tuple[str, int, int, int]


def start_connect(
    family: socket.AddressFamily, address: SocketAddress, *, source: SocketAddress | None = None
) -> socket.socket:
    """Start a TCP connect on a non-blocking socket. Raises ConnectFailed if it fails at once."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed(f"no socket for the TCP connection: {error.strerror}") from error
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        if source is not None:
            if sys.platform == "linux":  # else TIME_WAIT connections would use up the source's ports
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(source)
        code = sock.connect_ex(address)
    except OSError as error:
        code = error.errno or errno.EINVAL
    if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        sock.close()
        raise ConnectFailed(f"the TCP connection failed: {os.strerror(code)}", code)
    return sock
