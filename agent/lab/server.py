"""The lab on the network: HTTPS with client certificates, on loopback, by Twisted's own web server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL, crypto
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from agent.errors import OperatorError
from agent.lab.authorities import Authorities
from agent.lab.core import MAX_BODY_BYTES, Lab, Refused
from agent.lab.profiles import enrolment_profile
from agent.net.tls import make_context

HOST = "127.0.0.1"
_log = Logger()


class LabServer:
    """A lab that listens. ``url`` is its base, once ``listen`` was called."""

    def __init__(self, reactor: Any, lab: Lab, authorities: Authorities) -> None:
        self.lab = lab
        self.authorities = authorities
        self.url = ""
        self._reactor = reactor
        self._port: Any = None

    @property
    def enrolment_url(self) -> str:
        """Where a Mac gets its enrolment profile."""
        return f"{self.url}/enroll"

    def listen(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes any free one. Raises OperatorError."""
        root: Any = Resource()
        root.putChild(b"enroll", _Enrolment(self))
        root.putChild(b"checkin", _CheckIn(self.lab))
        root.putChild(b"mdm", _MDM(self.lab))
        site = Site(root, requestFactory=_BoundedRequest)
        connections = _Connections(self.authorities)
        try:
            self._port = self._reactor.listenSSL(port, site, connections, backlog=1024, interface=HOST)
        except CannotListenError as error:
            raise OperatorError(f"the lab cannot listen on {HOST}:{port}: {error.socketError}") from error
        self.url = f"https://{HOST}:{self._port.getHost().port}"

    def close(self) -> Any:
        """Listen no longer. Returns a Deferred that fires when the port is free, or None."""
        return None if self._port is None else self._port.stopListening()


@implementer(IOpenSSLServerConnectionCreator)
class _Connections:
    """Makes the TLS connections that Twisted accepts: client certificates are asked for, but not required."""

    def __init__(self, authorities: Authorities) -> None:
        identity = authorities.server_identity([HOST, "localhost"])
        context = make_context([authorities.anchor])
        context.set_options(SSL.OP_NO_TICKET)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        # The enrolment profile is fetched without a certificate; everything else asks for one in Lab.
        context.set_verify(SSL.VERIFY_PEER, _chain_is_good)
        self._context = context

    def serverConnectionForTLS(self, _protocol: object) -> SSL.Connection:
        """The server's end of one connection."""
        return SSL.Connection(self._context, None)


def _chain_is_good(_connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, ok: int) -> bool:
    return bool(ok)


class _BoundedRequest(Request):
    """A request whose body is thrown away, and answered with 413, once it is past the limit."""

    too_long = False
    _length = 0

    def gotLength(self, length: int | None) -> None:
        """The announced length; None where the body is chunked."""
        if length is not None and length > MAX_BODY_BYTES:
            self.too_long = True
            length = 0
        super().gotLength(length)

    def handleContentChunk(self, chunk: bytes) -> None:
        """A part of the body."""
        self._length += len(chunk)
        if self._length > MAX_BODY_BYTES:
            self.too_long = True
        if not self.too_long:
            super().handleContentChunk(chunk)


class _Endpoint(Resource):
    """One URL that takes a message: what the lab says becomes the answer, what it refuses an error status."""

    isLeaf = True

    def respond(self, request: Any, answer: Callable[[], bytes]) -> bytes:
        """The body of the answer."""
        request.setHeader(b"server", b"lom-agent lab")
        try:
            if request.too_long:
                raise Refused(413, f"at most {MAX_BODY_BYTES} bytes are taken")
            return answer()
        except Refused as error:
            _log.info("refused {path}: {error}", path=request.path, error=error)
            request.setResponseCode(error.status)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return f"{error}\n".encode()


class _Enrolment(_Endpoint):
    def __init__(self, server: LabServer) -> None:
        super().__init__()
        self._server = server

    def render_GET(self, request: Any) -> bytes:
        """A profile with an identity of its own for whoever asks."""
        request.setHeader(b"content-type", b"application/x-apple-aspen-config")
        return self.respond(request, lambda: enrolment_profile(self._server.authorities, self._server.url))


class _CheckIn(_Endpoint):
    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def render_PUT(self, request: Any) -> bytes:
        """A check-in message."""

        def answer() -> bytes:
            self._lab.check_in(request.content.read(), _content_type(request), _fingerprint(request))
            return b""

        return self.respond(request, answer)


class _MDM(_Endpoint):
    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def render_PUT(self, request: Any) -> bytes:
        """A report; the answer is the next command, or empty."""
        request.setHeader(b"content-type", b"application/xml; charset=utf-8")

        def answer() -> bytes:
            address = request.getClientAddress()
            peer = f"{address.host}:{address.port}"
            return self._lab.report(request.content.read(), _content_type(request), _fingerprint(request), peer)

        return self.respond(request, answer)


def _content_type(request: Any) -> str:
    value = request.getHeader(b"content-type") or b""
    return value.decode("latin-1").partition(";")[0].strip().lower()


def _fingerprint(request: Any) -> bytes | None:
    """SHA-256 of the client's certificate, which TLS has verified against the lab's CA."""
    certificate = request.channel.transport.getPeerCertificate()
    return None if certificate is None else certificate.to_cryptography().fingerprint(hashes.SHA256())
