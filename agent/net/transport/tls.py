"""TLS contexts, one per set of trust anchors.

A context is not changed after its first connection (pyOpenSSL refuses it): the identity and the peer check are set on
each connection. An identity with intermediate certificates gets a separate context, because pyOpenSSL can send them
from a context only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL, crypto

from agent.net.transport import openssl_direct
from agent.pki.certificates import CertificateError, for_openssl
from agent.pki.identity import Identity, IdentityError
from agent.pki.names import fault_of_name
from agent.pki.verify import PeerRejected, subject_text

_KNOWN_HOSTS = 1024  # a fleet has few servers
_DRAIN = SSL.Context(SSL.TLS_METHOD)  # of no connection


CLASSIC_GROUPS = b"X25519:P-256:P-384:P-521"
"""The key exchange groups of a client that knows no post-quantum one."""

_ContextKey = tuple[frozenset[x509.Certificate], tuple[x509.Certificate, ...], bool, tuple[bytes, ...], bytes]


class Check(Protocol):
    """Verifies the peer of a connection: a verify callback that provides the peer's name afterwards."""

    @property
    def rejected(self) -> PeerRejected | None:
        """Why the peer was refused, or None."""

    @property
    def name(self) -> str:
        """The verified name of the peer. Raises PeerRejected unless everything was checked."""

    def __call__(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int, /
    ) -> bool:
        """Judge one certificate of the chain."""


class TLSContexts:
    """The contexts of one process, created when first needed.

    ``system_anchors`` adds the system's trust store. ``short_keys`` allows RSA keys of 1024 bits, Apple's default for
    SCEP, which OpenSSL refuses by default. The counters are for the Macs' connections to their servers.
    """

    def __init__(self, *, system_anchors: bool = False, short_keys: bool = False) -> None:
        self.open_connections = 0
        self.handshakes_full = 0
        self.handshakes_resumed = 0
        self._system_anchors = system_anchors
        self._short_keys = short_keys
        self._clients: dict[_ContextKey, SSL.Context] = {}

    @property
    def closed_connections(self) -> int:
        """How many connections over TLS were open and are not any more."""
        return self.handshakes_full + self.handshakes_resumed - self.open_connections

    def client(
        self,
        connected: socket.socket,
        anchors: Sequence[x509.Certificate],
        identity: Identity | None,
        check: Check,
        host: str,
        *,
        tickets: bool = False,
        alpn: tuple[bytes, ...] = (),
        groups: bytes = b"",
    ) -> SSL.Connection:
        """The client's end of a TLS connection to ``host`` over ``connected``; ``check`` verifies the peer.

        ``tickets`` accepts session tickets, ``alpn`` are the protocols offered, ``groups`` the key exchange groups in
        OpenSSL's names with colons; empty: those of OpenSSL. Raises IdentityError.
        """
        chain = identity.chain if identity is not None else ()
        connection = SSL.Connection(self._context(anchors, chain, tickets, alpn, groups), connected)
        if identity is not None:
            use_identity(connection, identity)
        server_name = server_name_of(host)
        if server_name:
            connection.set_tlsext_host_name(server_name)
        connection.set_app_data(check)
        connection.set_connect_state()
        return connection

    def trusts(self, chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]) -> bool:
        """Whether ``chain``, the signer's certificate first, leads to one of ``anchors`` or of the system's."""
        store = self._context(anchors, (), False).get_cert_store()
        try:
            own, *others = (for_openssl(certificate) for certificate in chain)
            crypto.X509StoreContext(store, own, others).verify_certificate()  # type: ignore[arg-type]
        except (crypto.X509StoreContextError, CertificateError):
            return False
        return True

    def _context(
        self,
        anchors: Sequence[x509.Certificate],
        chain: Sequence[x509.Certificate],
        tickets: bool,
        alpn: tuple[bytes, ...] = (),
        groups: bytes = b"",
    ) -> SSL.Context:
        key = frozenset(anchors), tuple(chain), tickets, alpn, groups
        context = self._clients.get(key)
        if context is None:
            context = self._clients[key] = make_context(anchors, chain, tickets=tickets)
            if alpn:
                context.set_alpn_protos(list(alpn))
            if groups:
                openssl_direct.set_groups(context, groups)
            if self._system_anchors:
                context.set_default_verify_paths()
            if self._short_keys:
                context.set_cipher_list(b"DEFAULT:@SECLEVEL=1")
        return context


@lru_cache(_KNOWN_HOSTS)
def server_name_of(host: str) -> bytes:
    """The server_name of a TLS hello (RFC 6066): empty for an IP address or an invalid DNS name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            return b"" if fault_of_name(host) else host.encode("idna")
        except UnicodeError:
            return b""
    return b""


def make_context(
    anchors: Sequence[x509.Certificate], chain: Sequence[x509.Certificate] = (), *, tickets: bool = False
) -> SSL.Context:
    """A context of TLS 1.2 and newer that trusts exactly ``anchors`` and sends ``chain`` after its certificate.

    In a resumed session no certificate is sent, so the peer cannot be verified. Session tickets are therefore off,
    except where the kept sessions are bound to their verified peers (agent/net/http/resumption.py).

    Raises IdentityError where OpenSSL refuses the chain or an anchor.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | (0 if tickets else SSL.OP_NO_TICKET))
    store = context.get_cert_store()
    if store is None:
        raise AssertionError("a new context has a certificate store")
    try:
        for anchor in anchors:
            store.add_cert(for_openssl(anchor))
    except (CertificateError, crypto.Error) as error:
        raise IdentityError(f"a CA certificate cannot be used for TLS: {error}") from error
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    try:
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise _unusable("its chain", error) from error
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _judge)
    return context


def server_context(anchors: Sequence[x509.Certificate], chain: Sequence[x509.Certificate] = ()) -> SSL.Context:
    """``make_context`` for servers that send no session tickets.

    A server name callback of the caller's replaces the one that sees to that: it has to call ``send_no_tickets``.
    """
    context = make_context(anchors, chain, tickets=True)
    context.set_tlsext_servername_callback(send_no_tickets)
    return context


def send_no_tickets(connection: SSL.Connection) -> None:
    """Send no session tickets on this connection. Works in a server name callback of a context that allows tickets.

    OP_NO_TICKET on the context makes a TLS 1.3 server send tickets without a state in them (SSL_CTX_set_options(3)).
    On a connection whose option changes in this callback OpenSSL expects to send none (``final_server_name``).
    """
    connection.set_options(SSL.OP_NO_TICKET)


def use_identity(connection: SSL.Connection, identity: Identity) -> None:
    """Use this identity on this connection.

    Raises IdentityError if OpenSSL refuses it: the key does not match the certificate, or is too short.
    """
    try:
        openssl_direct.use_identity(connection, identity)
    except CertificateError as error:
        raise IdentityError(f"an identity cannot be used for TLS: {error}") from error
    except SSL.Error as error:
        raise _unusable(subject_text(identity.certificate), error) from error


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate: 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def forget_errors() -> None:
    """Empty OpenSSL's error queue, in which pyOpenSSL leaves an entry when it raises SysCallError.

    The queue belongs to the thread: the entry would become part of the next error of any other connection, and before
    OpenSSL 4 it would break that connection.
    """
    with contextlib.suppress(SSL.Error):
        _DRAIN.set_cipher_list(b"-")  # an invalid list: raising its error empties the queue


def openssl_reason(error: SSL.Error) -> str:
    """OpenSSL's reasons for an error, whose queue is a list of (library, function, reason)."""
    queue = error.args[0] if error.args else ()
    if isinstance(queue, (list, tuple)) and queue:
        return "; ".join(str(entry[-1]) for entry in queue if entry)
    return str(error) or type(error).__name__


def _unusable(what: str, error: SSL.Error) -> IdentityError:
    return IdentityError(f"the identity {what} cannot be used for TLS: {openssl_reason(error)}")


def _judge(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Call the check that is the connection's app data; refuse the peer if there is none.

    There is one callback per context: one per connection would each time allocate executable memory.
    """
    check = connection.get_app_data()
    if check is None:
        return False
    try:
        return bool(check(connection, certificate, error, depth, ok))
    except Exception:  # noqa: BLE001  # the check keeps the reason; an exception cannot pass through OpenSSL
        return False
