"""The purpose and the strength of a certificate chain, checked as in OpenSSL's TLS.

``X509StoreContext`` checks signatures, dates and constraints. A TLS handshake also sets the purpose, which checks
Extended Key Usage and Key Usage of every certificate in the chain, and the security level, which refuses weak keys and
digests. pyOpenSSL has no public function for either: the purpose is set by private names, the level is checked here
after OpenSSL has built the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from OpenSSL import SSL, crypto

from agent.errors import MisuseError
from agent.pki.certificates import from_openssl

# Source: OpenSSL, SSL_CTX_set_security_level(3): level 2, the default.
_EC = 408  # NID_X9_62_id_ecPublicKey, as pyOpenSSL has no name for it
_MIN_KEY_BITS = {crypto.TYPE_RSA: 2048, crypto.TYPE_DSA: 2048, _EC: 224}
_MIN_DIGEST_BITS = 224
_EE_KEY_TOO_SMALL, _CA_KEY_TOO_SMALL, _CA_MD_TOO_WEAK = 66, 67, 68  # OpenSSL, x509_vfy.h: X509_V_ERR_…
_lib: Any = getattr(SSL, "_lib", None)


class Purpose(Enum):
    """The peer's role in the handshake. The value is OpenSSL's name."""

    TLS_SERVER = "X509_PURPOSE_SSL_SERVER"
    TLS_CLIENT = "X509_PURPOSE_SSL_CLIENT"


def set_purpose(store: Any, purpose: Purpose) -> None:
    """Check every chain of this ``X509Store`` for ``purpose``. Raises MisuseError where that cannot be set."""
    number = getattr(_lib, purpose.value, None)
    setter = getattr(_lib, "X509_STORE_set_purpose", None)
    if number is None or setter is None or setter(store._store, number) != 1:
        raise MisuseError("Expected a release of pyOpenSSL and cryptography that can set a purpose, found another one.")


def weakness(chain: Sequence[crypto.X509]) -> tuple[int, crypto.X509] | None:
    """The first certificate of a chain that is too weak for TLS, after OpenSSL's error number for it; else None.

    The signature of the last one, the anchor, is not checked. Raises CertificateError and crypto.Error.
    """
    for depth, certificate in enumerate(chain):
        key = certificate.get_pubkey()
        if key.bits() < _MIN_KEY_BITS.get(key.type(), 0):
            return (_CA_KEY_TOO_SMALL if depth else _EE_KEY_TOO_SMALL), certificate
        digest = from_openssl(certificate).signature_hash_algorithm
        if depth < len(chain) - 1 and digest is not None and digest.digest_size * 8 < _MIN_DIGEST_BITS:
            return _CA_MD_TOO_WEAK, certificate
    return None
