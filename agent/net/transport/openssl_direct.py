"""Direct OpenSSL calls for which pyOpenSSL has no public API, or only a slow one. All private names in use are here.

If a release of pyOpenSSL or cryptography lacks one of them, ``DIRECT`` is false and the public API is used: an identity
is parsed for each connection, and a session is kept as OpenSSL's object.
"""

from __future__ import annotations

from functools import cache
from threading import local
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL, crypto

from agent.errors import MisuseError
from agent.pki.certificates import for_openssl, own_certificate
from agent.pki.identity import Identity
from agent.pki.issuing.authority import Authority

_FUNCTIONS = (
    "SSL_use_certificate",
    "SSL_use_PrivateKey",
    "SSL_session_reused",
    "SSL_SESSION_free",
    "i2d_SSL_SESSION",
    "d2i_SSL_SESSION",
    "ERR_clear_error",
    "SSL_read",
    "SSL_write",
)


def _has_all() -> bool:
    library, connection = getattr(SSL, "_lib", None), SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    return (
        all(hasattr(library, name) for name in _FUNCTIONS)
        and hasattr(SSL, "_ffi")
        and all(hasattr(connection, name) for name in ("_ssl", "_context", "_raise_ssl_error"))
        and hasattr(crypto.PKey(), "_pkey")
        and hasattr(crypto.X509(), "_x509")
    )


DIRECT = _has_all()
_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)
_read: Any = getattr(_lib, "SSL_read", None)
_write: Any = getattr(_lib, "SSL_write", None)

RECEIVE_BYTES = 65536  # more than one TLS record (16 KiB), so that OpenSSL keeps no rest of one


class _Buffer(local):
    """Where a thread's connections are read to: OpenSSL lets other threads run while it reads."""

    def __init__(self) -> None:
        self.octets: Any = _ffi.new("char[]", RECEIVE_BYTES)
        self.view: Any = _ffi.buffer(self.octets)


_buffer = _Buffer() if DIRECT else None


def handle_of(connection: object) -> Any:
    """What ``receive`` and ``send`` use of a connection; None where only its public methods can be used."""
    return connection._ssl if DIRECT and type(connection) is SSL.Connection else None


def receive(connection: Any, handle: Any) -> bytes:
    """Received bytes, as ``SSL.Connection.recv``; without a buffer and a question for errors each time: 4 µs less."""
    buffer: Any = _buffer
    size: int = _read(handle, buffer.octets, RECEIVE_BYTES)
    if size <= 0:
        connection._raise_ssl_error(handle, size)
    octets: bytes = buffer.view[:size]
    return octets


def send(connection: Any, handle: Any, octets: bytes) -> int:
    """How many bytes were sent, as ``SSL.Connection.send``; at least one."""
    size: int = _write(handle, octets, len(octets))
    if size <= 0:
        connection._raise_ssl_error(handle, size)
    return size


def use_identity(connection: SSL.Connection, identity: Identity) -> None:
    """Use this identity on this connection. Raises SSL.Error and CertificateError."""
    if DIRECT and _use_prepared(connection, identity):
        return
    connection.use_certificate(identity.certificate)
    connection.use_privatekey(identity.key)


def _use_prepared(connection: Any, identity: Identity) -> bool:
    certificate, key = _prepared(identity)
    if _lib.SSL_use_certificate(connection._ssl, certificate) == 1 == _lib.SSL_use_PrivateKey(connection._ssl, key):
        return True
    _lib.ERR_clear_error()  # the public API raises the reason
    return False


def let_go_of_identity(connection: Any, identity: Identity) -> None:
    """Free the 7 KiB of a connection's identity. There is no further handshake on the connection.

    OpenSSL cannot remove a certificate from a connection, so it is replaced by one that all connections share. OpenSSL
    has a slot for each kind of key.
    """
    if DIRECT:
        _use_prepared(connection, _nobody(isinstance(identity.key, rsa.RSAPrivateKey)))


@cache
def _nobody(with_rsa: bool) -> Identity:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if with_rsa else None
    return Authority.create("nobody", key=key).identity


def _prepared(identity: Identity) -> tuple[Any, Any]:
    """OpenSSL's objects for an identity; creating them takes 70 to 150 µs, and they take 7.5 KiB and more."""
    prepared: tuple[Any, Any] | None = identity.for_tls
    if prepared is None:
        certificate: Any = for_openssl(own_certificate(identity.certificate_octets))  # which the identity need not keep
        key: Any = crypto.PKey.from_cryptography_key(identity.key)
        prepared = identity.for_tls = certificate._x509, key._pkey
    return prepared


def was_resumed(connection: Any) -> bool:
    """Whether the handshake resumed an earlier session; true if OpenSSL cannot be asked.

    The caller must therefore also check that the server sent no certificate.
    """
    return not DIRECT or bool(_lib.SSL_session_reused(connection._ssl))


def set_groups(context: Any, groups: bytes) -> None:
    """Set the key exchange groups (RFC 8446, 4.2.7) that a context offers, in OpenSSL's names with colons.

    Without the call they stay those of OpenSSL.
    """
    call = getattr(_lib, "SSL_CTX_set1_curves_list", None)
    if call is not None and hasattr(context, "_context") and call(context._context, groups) != 1:
        _lib.ERR_clear_error()
        raise MisuseError(f"Expected names of key exchange groups, found {groups!r}.")


KeptSession = bytes | SSL.Session


def keep_session(connection: Any) -> KeptSession | None:
    """The session of a connection, for another one of the same context; None if there is none.

    As DER it takes 1.2 KiB, as OpenSSL's object 6.3.
    """
    session: SSL.Session | None = connection.get_session()
    if session is None or not DIRECT:
        return session
    size = _lib.i2d_SSL_SESSION(session._session, _ffi.NULL)
    if size <= 0:
        return None
    octets = _ffi.new("unsigned char[]", size)
    _lib.i2d_SSL_SESSION(session._session, _ffi.new("unsigned char **", octets))
    return bytes(_ffi.buffer(octets, size))


def offer_session(connection: Any, kept: KeptSession) -> bool:
    """Offer a session in the next handshake; return whether that is possible."""
    session: Any = kept
    if isinstance(kept, bytes):
        octets = _ffi.new("unsigned char[]", kept)
        found = _lib.d2i_SSL_SESSION(_ffi.NULL, _ffi.new("const unsigned char **", octets), len(kept))
        if found == _ffi.NULL:
            _lib.ERR_clear_error()
            return False
        session = SSL.Session.__new__(SSL.Session)
        session._session = _ffi.gc(found, _lib.SSL_SESSION_free)
        session._context = connection._context
    connection.set_session(session)
    return True
