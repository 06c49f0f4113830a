"""A TCP connection without TLS, for SCEP over http: the messages of SCEP protect themselves (RFC 8894, section 2).

It has the part of ``SSL.Connection``'s interface that a stream uses, and raises the same exceptions.
"""

from __future__ import annotations

import errno
import socket

from OpenSSL import SSL


class PlainConnection:
    """The interface of ``SSL.Connection`` over a TCP socket without TLS."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def do_handshake(self) -> None:
        """Do nothing: there is no handshake."""

    def recv(self, size: int) -> bytes:
        """Received bytes. Raises WantReadError, ZeroReturnError at the end, SysCallError if the connection broke."""
        try:
            octets = self._socket.recv(size)
        except BlockingIOError:
            raise SSL.WantReadError from None
        except OSError as error:
            raise SSL.SysCallError(error.errno, str(error)) from error
        if not octets:
            raise SSL.ZeroReturnError
        return octets

    def send(self, octets: bytes | memoryview) -> int:
        """How many bytes were sent. Raises WantWriteError, SysCallError."""
        try:
            return self._socket.send(octets)
        except BlockingIOError:
            raise SSL.WantWriteError from None
        except OSError as error:
            raise SSL.SysCallError(error.errno, str(error)) from error

    def shutdown(self) -> bool:
        """Send the end of the stream."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise SSL.SysCallError(error.errno, str(error)) from error
        return True

    def get_protocol_version_name(self) -> str:
        """No TLS version."""
        return "none"

    def get_cipher_name(self) -> str | None:
        """No cipher suite."""
        return None


class Unchecked:
    """Accepts any peer under ``name``, in place of a ``PeerCheck``.

    Only without TLS, on the operator's request, or where the peer is identified after the handshake (control link).
    """

    rejected = None

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_arguments: object) -> bool:
        """Accept any certificate."""
        return True
