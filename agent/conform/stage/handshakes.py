"""One TLS handshake with a server, to see what it agrees to: no certificate is verified.

It runs in a thread, with a time limit of its own, because a probe offers what no connection of a Mac would.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from OpenSSL import SSL, crypto

from agent.net.transport.floor import extended_master_secret
from agent.pki.certificates import CertificateError, for_openssl, peer_chain, read_certificates
from agent.pki.pem import certificate_pem

_READ = 16 * 1024
_VERSIONS = {
    "TLSv1": SSL.TLS1_VERSION,
    "TLSv1.1": SSL.TLS1_1_VERSION,
    "TLSv1.2": SSL.TLS1_2_VERSION,
    "TLSv1.3": SSL.TLS1_3_VERSION,
}
NOT_IN_TIME = "the handshake did not end in time"
"""The error of a handshake that the server neither ended nor refused."""
_EVERY_CIPHER = b"ALL:COMPLEMENTOFALL:@SECLEVEL=0"


class Offer(msgspec.Struct, frozen=True):
    """What the client offers."""

    lowest: str = "TLSv1.2"
    highest: str = "TLSv1.3"
    ciphers: str = ""
    """OpenSSL's list for TLS 1.2 and below; empty: its default."""


class Agreed(msgspec.Struct, frozen=True):
    """What came of a handshake. Without an ``error`` all of it is known."""

    version: str = ""
    cipher: str = ""
    extended_master_secret: bool | None = None
    """None: unknown, or TLS 1.3, which has no need of it."""
    chain: tuple[str, ...] = ()
    """The server's certificates in PEM, its own first."""
    error: str = ""
    """Why there was no handshake."""


def handshake(host: str, port: int, offer: Offer, seconds: float) -> Agreed:
    """Do one handshake; blocks for at most about ``seconds``."""
    try:
        with connected(host, port, _context(offer), seconds) as (tls, _sock):
            return _agreed(tls)
    except (SSL.Error, OSError, UnicodeError, CertificateError) as error:
        return Agreed(error=reason_of(error))


def leads_to_system_anchor(chain: Sequence[str]) -> bool:
    """Whether a server's chain, in PEM, leads to a CA that this machine's system trusts. Reads its trust store."""
    try:
        own, *others = (for_openssl(each) for pem in chain for each in read_certificates(pem.encode()))
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_default_verify_paths()
        store = context.get_cert_store()
        if store is None:
            return False
        crypto.X509StoreContext(store, own, others).verify_certificate()
    except (ValueError, CertificateError, crypto.Error, crypto.X509StoreContextError):
        return False
    return True


def _context(offer: Offer) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(_VERSIONS[offer.lowest])
    context.set_max_proto_version(_VERSIONS[offer.highest])
    old = offer.lowest in ("TLSv1", "TLSv1.1")
    if offer.ciphers or old:
        context.set_cipher_list(offer.ciphers.encode() or _EVERY_CIPHER)
    return context


@contextmanager
def connected(
    host: str, port: int, context: SSL.Context, seconds: float
) -> Iterator[tuple[SSL.Connection, socket.socket]]:
    """A TLS connection after its handshake, which may take ``seconds``. Raises OSError, UnicodeError and SSL.Error."""
    deadline = time.monotonic() + seconds
    with socket.create_connection((host, port), timeout=seconds) as sock:
        tls = SSL.Connection(context, None)
        tls.set_connect_state()
        tls.set_tlsext_host_name(host.encode("idna"))
        _shake(tls, sock, deadline)
        yield tls, sock


def reason_of(error: Exception) -> str:
    """Why there is no connection, in the words of OpenSSL or the system."""
    if isinstance(error, SSL.Error):
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
        return str(reasons[-1][2]) if reasons else "the connection was closed"
    if isinstance(error, TimeoutError):
        return NOT_IN_TIME
    return str(error) or type(error).__name__


def _shake(tls: SSL.Connection, sock: socket.socket, deadline: float) -> None:
    while True:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            send(tls, sock)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError from None
            sock.settimeout(left)
            octets = sock.recv(_READ)
            if not octets:
                raise ConnectionError("the server closed the connection in the handshake") from None
            tls.bio_write(octets)
        else:
            send(tls, sock)
            return


def send(tls: SSL.Connection, sock: socket.socket) -> None:
    """Send what is to be sent: TLS works in memory here."""
    while True:
        try:
            sock.sendall(tls.bio_read(_READ))
        except SSL.WantReadError:
            return


def _agreed(tls: SSL.Connection) -> Agreed:
    chain = tuple(certificate_pem(each).decode("ascii") for each in peer_chain(tls))
    version = tls.get_protocol_version_name()
    return Agreed(version, tls.get_cipher_name() or "", extended_master_secret(tls), chain)
