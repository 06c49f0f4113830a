"""TLS of the lab's web server: client certificates, ALPN, and the lab's defects of TLS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from agent.lab.defects import Defects
from agent.net.transport.tls import make_context
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities

_NO_EXTENDED_MASTER_SECRET = 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET, which pyOpenSSL does not name
_EXPIRED, _SELF_SIGNED, _UNKNOWN_ISSUER, _CANNOT_VERIFY = 10, 18, 20, 21  # X509_V_ERR_…, which pyOpenSSL does not name


@implementer(IOpenSSLServerConnectionCreator)
class LabTLS:
    """Creates the TLS ends of accepted connections: client certificates are requested, but not required.

    ``spoken`` are the protocols of ALPN, the preferred one first.
    """

    def __init__(self, authorities: Authorities, identity: Identity, defects: Defects, spoken: Sequence[bytes]) -> None:
        # With session tickets, the default of most servers; a resumed session keeps its client certificate.
        context = make_context(authorities.mdm_anchors, tickets=True)
        context.set_session_id(b"lom-agent lab")
        context.set_alpn_select_callback(partial(_chosen, spoken))
        if "tls-old-versions" in defects:
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
        if "tls-cbc" in defects:
            context.set_cipher_list(b"ECDHE+AES+SHA384:ECDHE+AES+SHA256:!AESGCM:!AESCCM")
        if "tls-no-extended-master-secret" in defects:
            context.set_options(_NO_EXTENDED_MASTER_SECRET)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        # The enrollment profile is fetched without a certificate; Lab requires one for check-ins and reports.
        context.set_verify(SSL.VERIFY_PEER, _chain_check(defects))
        self._context = context

    def serverConnectionForTLS(self, _protocol: object) -> SSL.Connection:
        """The TLS end of a new connection."""
        return SSL.Connection(self._context, None)


def _chosen(spoken: Sequence[bytes], _connection: SSL.Connection, offered: list[bytes]) -> bytes | Any:
    """The protocol for a client that offers some by ALPN; without a common one the connection does without ALPN."""
    return next((each for each in spoken if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def _chain_check(defects: Defects) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool] | None:
    """What decides about each certificate of a chain, with the errors that OpenSSL found; None: OpenSSL itself."""
    forgiven: frozenset[int] = frozenset()
    if "identity-any-ca" in defects:
        forgiven |= {_UNKNOWN_ISSUER, _CANNOT_VERIFY}
    if "identity-expired-accepted" in defects:
        forgiven |= {_SELF_SIGNED, _EXPIRED}
    if not forgiven:
        return None

    def check(_connection: SSL.Connection, _certificate: crypto.X509, error: int, _depth: int, ok: int) -> bool:
        return bool(ok) or error in forgiven

    return check
