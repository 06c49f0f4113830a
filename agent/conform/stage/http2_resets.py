"""A request over HTTP/2 that is reset in the middle: no Mac of ours sends one.

It runs in a thread, with a time limit of its own, on TLS in memory. No certificate of the server is verified: nothing
is sent that is not in the report of any session.
"""

from __future__ import annotations

from collections.abc import Mapping

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from OpenSSL import SSL

from agent.conform.stage.handshakes import connected, reason_of, send
from agent.net.http.http1 import Origin
from agent.pki.identity import Identity

RESET = "reset by the probe"
_PROTOCOL = b"h2"


def reset_in_request(
    origin: Origin, target: str, headers: Mapping[str, str], body: bytes, identity: Identity, seconds: float
) -> tuple[str, str]:
    """PUT half of ``body`` over HTTP/2 and reset the stream; blocks for at most about ``seconds``.

    Returns the version of HTTP that the server agreed to, and ``RESET`` or why the request could not be sent.
    """
    try:
        with connected(origin.host, origin.port, _context(identity), seconds) as (tls, sock):
            if tls.get_alpn_proto_negotiated() != _PROTOCOL:
                return "HTTP/1.1", "the server did not agree to HTTP/2"
            tls.send(_half(origin, target, headers, body))
            send(tls, sock)
            tls.shutdown()
            send(tls, sock)
            return "HTTP/2", RESET
    except (SSL.Error, OSError, UnicodeError, H2Error) as error:
        return "", reason_of(error)


def _half(origin: Origin, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of the connection: the preface, a request without its second half, and its reset."""
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    pseudo = [(":method", "PUT"), (":scheme", "https"), (":authority", origin.header), (":path", target)]
    fields = [(name.lower(), value) for name, value in headers.items()]
    connection.send_headers(stream, [*pseudo, *fields, ("content-length", str(len(body)))])
    connection.send_data(stream, body[: len(body) // 2])
    connection.reset_stream(stream, ErrorCodes.CANCEL)
    return connection.data_to_send()


def _context(identity: Identity) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([_PROTOCOL, b"http/1.1"])
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    for certificate in identity.chain:
        context.add_extra_chain_cert(certificate)
    return context
