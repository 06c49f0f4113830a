"""The APNs gateway: to an MDM server it is ``api.push.apple.com``. HTTP/2 over TLS; it has no connections to Macs.

The gateway accepts connections and identifies providers by their certificates. Each connection reads requests
(`agent.net.apns.connection`) and gives them to the router (`agent.net.apns.router`), which has them decided on by the
push endpoint of the process that simulates the Mac.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agent.errors import OperatorError
from agent.net.apns.connection import ALPN, GatewayLimits, ProviderConnection, Router
from agent.net.timing import Reactor
from agent.net.transport.listener import Listener, listening_socket
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts, TLSStream
from agent.net.transport.tls import server_context
from agent.pki.certificates import CertificateError, for_openssl, peer_chain, read_openssl
from agent.pki.identity import Identity
from agent.pki.verify import PeerRejected, store_of, subject_text
from agent.push.reasons import Reason
from agent.push.requests import NOBODY, Provider

NAMES = ("api.push.apple.com", "api.sandbox.push.apple.com", "api.development.push.apple.com", "localhost")

_log = Logger()


class APNsGateway:
    """The gateway of one fleet. ``host`` and ``port`` are its address after ``listen``.

    ``provider_anchors`` are the CAs of valid client certificates; without any, every certificate within its dates is
    accepted, because a real push certificate is Apple's and a test's is not. ``anonymous`` is the provider that a
    client without a certificate is; only a benchmark, whose client has none, sets it.
    """

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        identity: Identity,
        *,
        provider_anchors: Sequence[x509.Certificate] = (),
        anonymous: Provider = NOBODY,
        limits: GatewayLimits | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.host = ""
        self.port = 0
        self._reactor = reactor
        self._router = router
        self._anchors = tuple(provider_anchors)
        self._anonymous = anonymous
        self._limits = limits or GatewayLimits()
        self._timeouts = timeouts
        self._context = _context(identity)
        self._listener: Listener | None = None
        self._newcomers: dict[ProviderConnection, None] = {}  # without a valid certificate so far, the oldest first
        self._providers: dict[ProviderConnection, None] = {}
        self._leaving: dict[ProviderConnection, None] = {}  # shutting down to make room, the oldest first
        self._gone: Deferred[None] | None = None

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._connections())

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 picks a free one. Raises OperatorError."""
        self._open(host, port)

    def set_away(self, away: bool) -> None:
        """Reset all connections and stop listening, or listen again."""
        if away and self._listener is not None:
            self._go_away()
        elif not away and self._listener is None:
            self._come_back()

    def close(self) -> Deferred[None]:
        """Stop listening and shut every connection down with GOAWAY; fires when all have ended."""
        self._stop_listening()
        for connection in self._connections():
            connection.shut_down()
        self._gone = Deferred()
        self._check_gone()
        return self._gone

    def _open(self, host: str, port: int) -> None:
        sock = listening_socket(host, port, what="The APNs gateway")
        self.host, self.port = host, sock.getsockname()[1]
        self._listener = Listener(self._reactor, sock, self._accepted)
        self._listener.resume()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _go_away(self) -> None:
        self._stop_listening()
        for connection in self._connections():
            connection.abort()

    def _come_back(self) -> None:
        try:
            self._open(self.host, self.port)
        except OperatorError as error:
            _log.error("{error}", error=error)

    def _connections(self) -> list[ProviderConnection]:
        return [*self._newcomers, *self._providers, *self._leaving]

    def _accepted(self, sock: socket.socket, _port: int) -> None:
        """Accept a connection. With too many that have no valid certificate, the oldest of these is reset."""
        while len(self._newcomers) >= self._limits.newcomers:
            self._router.turned_away()
            next(iter(self._newcomers)).abort()
        tls = SSL.Connection(self._context, sock)
        check = _ProviderCheck()
        tls.set_verify(SSL.VERIFY_PEER, check)
        tls.set_accept_state()
        connection = ProviderConnection(self._reactor, self._router, self._limits, self)
        self._newcomers[connection] = None
        connection.begin(TLSStream(self._reactor, sock, tls, check, connection, timeouts=self._timeouts), tls)

    # From the connections.

    def identified(self, connection: ProviderConnection) -> None:
        """Count a connection with a valid certificate apart. With too many, the longest idle one is shut down."""
        if not connection.certified or connection not in self._newcomers:
            return
        del self._newcomers[connection]
        if len(self._providers) < self._limits.providers:
            self._providers[connection] = None
            return
        self._router.turned_away()
        idle = [(each.idle_since, number, each) for number, each in enumerate(self._providers)]
        longest = min(((since, number, each) for since, number, each in idle if since is not None), default=None)
        if longest is None:
            self._dismiss(connection, Reason.SERVICE_UNAVAILABLE)
            return
        del self._providers[longest[2]]
        self._providers[connection] = None
        self._dismiss(longest[2], Reason.IDLE_TIMEOUT)

    def ended(self, connection: ProviderConnection) -> None:
        """A connection has ended."""
        for connections in (self._newcomers, self._providers, self._leaving):
            connections.pop(connection, None)
        self._check_gone()

    def identify(self, tls: SSL.Connection) -> Provider:
        """The provider, by its client certificate."""
        try:
            chain = peer_chain(tls)
        except CertificateError as error:  # in a CA's certificate; the provider's own was parsed in the handshake
            return Provider(certified=True, fault=str(error))
        return provider_of(chain, self._anchors) if chain else self._anonymous

    def _dismiss(self, connection: ProviderConnection, reason: Reason) -> None:
        """Shut a connection down. With too many of these, the oldest is reset."""
        while len(self._leaving) >= self._limits.newcomers:
            next(iter(self._leaving)).abort()
        self._leaving[connection] = None
        connection.shut_down(reason)

    def _check_gone(self) -> None:
        here = self._newcomers or self._providers or self._leaving
        if self._gone is not None and not self._gone.called and not here:
            self._gone.callback(None)


class _ProviderCheck:
    """Accepts any certificate that can be parsed, because APNs refuses requests (403), not handshakes."""

    name = "provider"

    def __init__(self) -> None:
        self.rejected: PeerRejected | None = None

    def __call__(self, _tls: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int, /) -> bool:
        """Whether the provider's own certificate can be parsed."""
        if depth == 0:
            try:
                read_openssl(certificate)
            except CertificateError as error:
                self.rejected = PeerRejected(f"the provider's certificate is refused: {error}")
                _log.warn("a provider is refused: {error}", error=error)
        return self.rejected is None


def provider_of(chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]) -> Provider:
    """The provider with this client certificate (the first of ``chain``), verified against ``anchors`` if any.

    Source: Apple, "Setting up push notifications for your MDM customers": the topic is the subject's UID.
    """
    certificate = chain[0]
    topics = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)]
    topic = topics[0] if len(topics) == 1 else ""
    try:
        own, *others = (for_openssl(each) for each in chain)
        # Without anchors the certificate itself is the anchor: only its dates are verified.
        store = store_of(anchors or (certificate,))
        crypto.X509StoreContext(store, own, others).verify_certificate()
    except (crypto.X509StoreContextError, crypto.Error, CertificateError) as error:
        _log.warn("a provider's certificate is refused: {who}: {error}", who=subject_text(certificate), error=error)
        return Provider(topic, certified=True, fault=str(error))
    return Provider(topic, certified=True)


def _context(identity: Identity) -> SSL.Context:
    context = server_context((), identity.chain)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    context.set_alpn_select_callback(_select_h2)
    return context


def _select_h2(_connection: SSL.Connection, offered: list[bytes]) -> Any:  # the type of pyOpenSSL's sentinel is private
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
