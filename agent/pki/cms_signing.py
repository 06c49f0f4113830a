"""Making CMS signatures (RFC 5652): the ``Mdm-Signature`` header, signed profiles, the outer layer of SCEP messages.

A Mac may sign every report, so the parts that never change are encoded once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import MisuseError
from agent.pki import der
from agent.pki.certificates import own_certificate
from agent.pki.identity import Identity, PrivateKey
from agent.pki.signatures import RSA_ENCRYPTION

DATA = "1.2.840.113549.1.7.1"
SIGNED_DATA = "1.2.840.113549.1.7.2"
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"

_VERSION_1 = bytes.fromhex("020101")
_SIGNING_TIME = der.oid("1.2.840.113549.1.9.5")
_SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL)
_RSA = der.sequence(der.oid(RSA_ENCRYPTION), der.NULL)
_ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_CONTENT_TYPE = der.sequence(der.oid(CONTENT_TYPE), der.set_of(der.oid(DATA)))
_MESSAGE_DIGEST = der.oid(MESSAGE_DIGEST)
_SIGNED_DATA, _DATA = der.oid(SIGNED_DATA), der.oid(DATA)
_DIGEST_BYTES = hashlib.sha256().digest_size
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_GENERALIZED_FROM = 2050  # RFC 5652, 11.3
_KNOWN_NAMES = 256  # as many as there are parsed certificates in the cache (`agent.pki.certificates`)
_KNOWN_SIGNERS = 8  # of profiles, by a server; a Mac's identity has its own (`agent.pki.mdm_signatures`)
Signer = tuple[bytes, bytes]
"""A signer's identifier (issuer and serial number) and its certificate, in DER."""

_PKCS1, _HASH, _ECDSA = padding.PKCS1v15(), hashes.SHA256(), ec.ECDSA(hashes.SHA256())


def sign_attached(
    content: bytes,
    certificate: x509.Certificate,
    private_key: PrivateKey,
    chain: Sequence[x509.Certificate] = (),
) -> bytes:
    """DER SignedData with ``content``, the signer's certificate and ``chain``: the form of a signed ``.mobileconfig``.

    SHA-256 with RSA PKCS#1 v1.5 or ECDSA. Raises MisuseError for a key of another kind.
    """
    attributes = _attributes(content)
    algorithm, signature = _signature(attributes, private_key)
    return _signed_data(_known_signer(certificate), chain, _SHA256, attributes, algorithm, signature, content)


class DetachedSigner:
    """Makes DER SignedData over a body, without it, but with the certificate of one identity and no chain.

    Otherwise it is as that of ``sign_attached``. What never changes is encoded once.
    """

    __slots__ = ("_before", "_between", "_signer", "_sizes")

    def __init__(self, identity: Identity) -> None:
        self._signer: Signer | None = _signer_of_identity(identity)  # None once its bytes are in _before
        self._sizes = (0, 0)  # of the attributes and the signature in the messages that begin with _before
        self._before = self._between = b""

    def sign(self, body: bytes, identity: Identity) -> bytes:
        """The message for exactly ``body``, by the same identity. Raises MisuseError as ``sign_attached``."""
        attributes = _attributes(body)
        algorithm, signature = _signature(attributes, identity.key)
        if self._sizes == (len(attributes), len(signature)):
            return b"".join((self._before, attributes[1:], self._between, signature))
        signer = self._signer or _signer_of_identity(identity)
        message = _signed_data(signer, (), _SHA256, attributes, algorithm, signature, None)
        if algorithm is _RSA:  # all signatures by one key have the same length
            self._signer = None
            self._sizes = len(attributes), len(signature)
            self._between = algorithm + der.encode(der.OCTET_STRING, signature)[: -len(signature)]
            self._before = message[: 1 - len(attributes) - len(self._between) - len(signature)]
        return message


def mdm_signature(body: bytes, signer: DetachedSigner, identity: Identity) -> str:
    """The value of the ``Mdm-Signature`` header for ``body``: one line of base64. ``signer`` is the identity's."""
    return base64.b64encode(signer.sign(body, identity)).decode("ascii")


def signed_data(
    certificates: Sequence[x509.Certificate],
    digest_algorithm: bytes,
    attributes: bytes,
    algorithm: bytes,
    signature: bytes,
    content: bytes | None,
) -> bytes:
    """The DER of a message with one signer (RFC 5652, 5.1 and 5.3): the first of ``certificates``, which it includes.

    ``attributes`` is the signed SET OF; without ``content``, the message is detached.
    """
    signer, *chain = certificates
    return _signed_data(signer_of(signer), chain, digest_algorithm, attributes, algorithm, signature, content)


def _signed_data(
    signer: Signer,
    chain: Sequence[x509.Certificate],
    digest_algorithm: bytes,
    attributes: bytes,
    algorithm: bytes,
    signature: bytes,
    content: bytes | None,
) -> bytes:
    identifier, own = signer
    signer_info = der.sequence(
        _VERSION_1,
        identifier,
        digest_algorithm,
        # Signed as a SET OF, sent under [0] (RFC 5652, 5.4): the two differ in the first octet only.
        bytes((der.CONTEXT_0,)) + attributes[1:],
        algorithm,
        der.encode(der.OCTET_STRING, signature),
    )
    others = (certificate.public_bytes(Encoding.DER) for certificate in chain)
    message = der.sequence(
        _VERSION_1,
        der.encode(der.SET, digest_algorithm),
        der.sequence(
            _DATA, b"" if content is None else der.encode(der.CONTEXT_0, der.encode(der.OCTET_STRING, content))
        ),
        bytes((der.CONTEXT_0,)) + der.set_of(own, *others)[1:],
        der.encode(der.SET, signer_info),
    )
    return der.sequence(_SIGNED_DATA, der.encode(der.CONTEXT_0, message))


@lru_cache(_KNOWN_NAMES)
def issuer_and_serial(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    """Issuer (its DER as issued) and serial number (contents octets): how CMS names a certificate."""
    tbs = der.Fields(der.read(certificate.tbs_certificate_bytes))
    tbs.optional(der.CONTEXT_0)  # version
    serial = tbs.take(der.INTEGER, "the serial number").body
    tbs.take(der.SEQUENCE, "the signature algorithm")
    return tbs.take(der.SEQUENCE, "the issuer").encoded, serial


def _attributes(content: bytes) -> bytes:
    """The signed attributes, as the SET OF that is signed: content type, signing time, digest."""
    return _attributes_until_digest(datetime.now(UTC).replace(microsecond=0)) + hashlib.sha256(content).digest()


@lru_cache(1)
def _attributes_until_digest(second: datetime) -> bytes:
    """What comes before the digest, which is at their end: the longest attribute is the last one (X.690, 11.6)."""
    digest = bytes(_DIGEST_BYTES)
    return der.set_of(
        _CONTENT_TYPE,
        der.sequence(_SIGNING_TIME, der.encode(der.SET, _time(second))),
        der.sequence(_MESSAGE_DIGEST, der.encode(der.SET, der.encode(der.OCTET_STRING, digest))),
    )[:-_DIGEST_BYTES]


def _signature(attributes: bytes, private_key: PrivateKey) -> tuple[bytes, bytes]:
    """The algorithm, in DER, and the signature."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        return _RSA, private_key.sign(attributes, _PKCS1, _HASH)
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return _ECDSA_SHA256, private_key.sign(attributes, _ECDSA)
    raise MisuseError(f"Expected an RSA or EC key, found a {type(private_key).__name__}.")


def signer_of(certificate: x509.Certificate, octets: bytes = b"") -> Signer:
    """The signer's identifier and its certificate, in DER, which is ``octets`` if the caller has it."""
    issuer, serial = issuer_and_serial(certificate)
    identifier = der.sequence(issuer, der.encode(der.INTEGER, serial))
    return identifier, octets or certificate.public_bytes(Encoding.DER)


def _signer_of_identity(identity: Identity) -> Signer:
    octets = identity.certificate_octets
    return signer_of(own_certificate(octets), octets)  # not kept: later signatures need its DER alone


@lru_cache(_KNOWN_SIGNERS)
def _known_signer(certificate: x509.Certificate) -> Signer:
    return signer_of(certificate)


def _time(now: datetime) -> bytes:
    if now.year < _GENERALIZED_FROM:
        return der.encode(_UTC_TIME, f"{now:%y%m%d%H%M%SZ}".encode())
    return der.encode(_GENERALIZED_TIME, f"{now:%Y%m%d%H%M%SZ}".encode())
