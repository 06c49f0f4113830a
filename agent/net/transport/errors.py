"""The failures of a TCP or TLS connection, and how OpenSSL's errors map to them."""

from __future__ import annotations

import errno
import os

from OpenSSL import SSL

from agent.errors import PeerError
from agent.net.transport.tls import forget_errors, openssl_reason

# OpenSSL's reasons for a first record that is not TLS.
_NOT_TLS = ("wrong version number", "http request", "packet length too long", "record layer failure")
# … and for alerts that a refused or missing certificate causes (RFC 8446, 6.2).
_UNAMBIGUOUS_ALERTS = (
    "alert bad certificate",
    "alert unsupported certificate",
    "alert certificate revoked",
    "alert certificate expired",
    "alert certificate unknown",
    "alert unknown ca",
    "alert certificate required",
)
# After our end of the handshake these mean our certificate, too: nothing else is judged then.
_CERTIFICATE_ALERTS = (
    *_UNAMBIGUOUS_ALERTS,
    "alert access denied",
    "alert decrypt error",
    "alert handshake failure",
    "alert internal error",  # sent by a pyOpenSSL peer whose verify callback refused the certificate
)


class ConnectFailed(PeerError):
    """The TCP connection failed. ``code`` is the system's errno, 0 if there was none."""

    kind = "connect"

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class ConnectTimeout(ConnectFailed):
    """There was no answer to the TCP connection in time."""

    kind = "connect_timeout"
    timed_out = True


class HandshakeFailed(PeerError):
    """TLS could not be agreed."""

    kind = "tls"


class CertificateRefused(HandshakeFailed):
    """The peer refused our certificate, or that there was none."""

    kind = "tls_refused"


class HandshakeTimeout(HandshakeFailed):
    """The TLS handshake took too long."""

    kind = "tls_timeout"
    timed_out = True


class ConnectionBroken(PeerError):
    """The peer closed the connection, or it broke."""

    kind = "broken"


class ConnectionClosed(ConnectionBroken):
    """The peer closed the connection with close_notify: all that it sent has arrived."""


def handshake_error(error: SSL.Error) -> HandshakeFailed:
    """The failure that an OpenSSL error of the handshake means."""
    if isinstance(error, SSL.SysCallError):
        forget_errors()
        return HandshakeFailed(f"the peer closed the connection during the TLS handshake{_system_reason(error)}")
    reason = openssl_reason(error)
    if "alert" in reason:
        about_us = any(words in reason for words in _UNAMBIGUOUS_ALERTS)
        failed = CertificateRefused if about_us else HandshakeFailed
        return failed(f"the peer refused the TLS handshake: {reason}")
    if reason in _NOT_TLS:
        return HandshakeFailed(f"the peer does not speak TLS at this port: {reason}")
    return HandshakeFailed(f"the TLS handshake failed: {reason}")


def broken(error: SSL.Error, *, before_any_answer: bool = False) -> HandshakeFailed | ConnectionBroken:
    """The failure that an OpenSSL error of an open connection means."""
    if isinstance(error, SSL.SysCallError):
        forget_errors()
        text = f"the peer broke the connection{_system_reason(error)}"
        if before_any_answer:
            text += "; it sent nothing before, as a server may that refuses our certificate"
        return ConnectionBroken(text)
    reason = openssl_reason(error)
    if any(words in reason for words in _CERTIFICATE_ALERTS):
        # With TLS 1.3 a client learns only after its handshake that its certificate was refused.
        return CertificateRefused(f"the peer refused our certificate: {reason}")
    return ConnectionBroken(f"TLS failed: {reason}")


def ended(*, in_handshake: bool, before_any_answer: bool) -> HandshakeFailed | ConnectionBroken:
    """The failure that the end of TCP without close_notify means."""
    error = SSL.SysCallError(-1, "Unexpected EOF")  # as pyOpenSSL raises
    return handshake_error(error) if in_handshake else broken(error, before_any_answer=before_any_answer)


def _system_reason(error: SSL.SysCallError) -> str:
    """The system's text for the errno; empty where TCP ended without close_notify.

    A reset after that end is reported as EPIPE, which counts as the end.
    """
    number = error.args[0] if error.args else -1
    if number == errno.EPIPE:
        return ""
    return f": {os.strerror(number)}" if isinstance(number, int) and number > 0 else ""
