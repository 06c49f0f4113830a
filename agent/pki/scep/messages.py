"""A SCEP pkiMessage: CMS SignedData with the message's header in its signed attributes (RFC 8894, 3.2)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from enum import IntEnum

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from agent.errors import MisuseError
from agent.pki import cms, cms_signing, der
from agent.pki.cms_signing import signed_data
from agent.pki.scep.envelope import DATA, MAX_BYTES
from agent.pki.scep.errors import FailInfo, SCEPError
from agent.pki.signatures import DIGESTS, LEGACY, RSA_ENCRYPTION

CONTENT_TYPE = "application/x-pki-message"  # of PKIOperation, request and answer (RFC 8894, 4.3)
NONCE_BYTES = 16  # RFC 8894, 3.2.1.5
MAX_NONCE_BYTES = 64
MAX_TRANSACTION_ID = 256  # characters; no standard gives a limit

MESSAGE_TYPE = "2.16.840.1.113733.1.9.2"
PKI_STATUS = "2.16.840.1.113733.1.9.3"
FAIL_INFO = "2.16.840.1.113733.1.9.4"
SENDER_NONCE = "2.16.840.1.113733.1.9.5"
RECIPIENT_NONCE = "2.16.840.1.113733.1.9.6"
TRANSACTION_ID = "2.16.840.1.113733.1.9.7"
FAIL_INFO_TEXT = "1.3.6.1.5.5.7.24.1"

_VERSION_1 = bytes.fromhex("020101")
_TEXT_TAGS = (der.PRINTABLE_STRING, der.UTF8_STRING, der.IA5_STRING)  # the first is that of the standard


class MessageType(IntEnum):
    """RFC 8894, 3.2.1.2."""

    CERT_REP = 3
    RENEWAL_REQ = 17
    PKCS_REQ = 19
    CERT_POLL = 20
    GET_CERT = 21
    GET_CRL = 22


class PKIStatus(IntEnum):
    """RFC 8894, 3.2.1.3."""

    SUCCESS = 0
    FAILURE = 2
    PENDING = 3


class Header(msgspec.Struct, frozen=True):
    """The attributes of a pkiMessage; ``recipient_nonce`` and those after it occur only in a CertRep."""

    message_type: MessageType
    transaction_id: str
    sender_nonce: bytes
    recipient_nonce: bytes | None = None
    status: PKIStatus | None = None
    fail_code: int | None = None
    """A number that may not be one of FailInfo."""
    fail_text: str | None = None

    @property
    def fail_info(self) -> FailInfo | None:
        """The reason of a FAILURE; None without one and for an unknown number."""
        return None if self.fail_code is None else FailInfo.from_code(self.fail_code)


class PKIMessage(msgspec.Struct, frozen=True):
    """A message with a valid signature."""

    header: Header
    envelope: bytes
    """Empty if it has none."""
    signer: x509.Certificate
    certificates: tuple[x509.Certificate, ...]
    digest: hashes.HashAlgorithm


def open_message(data: bytes) -> PKIMessage:
    """Read a pkiMessage and check its signature by the certificate inside. Raises SCEPError.

    Whether that certificate is trusted is for the caller to decide. SHA-1 and MD5 are accepted, because old CAs support
    nothing else (RFC 8894).
    """
    if len(data) > MAX_BYTES:
        raise SCEPError(f"expected a SCEP message of at most {MAX_BYTES:,} bytes, found {len(data):,}")
    try:
        # A CertRep without a certificate has no content or an empty one (RFC 8894, 3.2).
        signed = cms.open_signed(data, absent=b"", legacy=LEGACY)
        header = _header(signed.attributes)
    except cms.CMSError as error:
        raise SCEPError(f"the SCEP message is malformed: {error}") from error
    except der.DERError as error:
        raise SCEPError(f"an attribute of the SCEP message is malformed: {error}") from error
    digest = next(known for known in DIGESTS.values() if known.name == signed.digest)
    return PKIMessage(header, signed.content, signed.signer, signed.certificates, digest)


def sign_message(
    header: Header,
    envelope: bytes | None,
    certificate: x509.Certificate,
    private_key: rsa.RSAPrivateKey,
    digest: hashes.HashAlgorithm,
    chain: Sequence[x509.Certificate] = (),
) -> bytes:
    """The DER of a pkiMessage with ``envelope`` inside (None: no content), signed; ``certificate`` is included.

    Raises MisuseError if the key is not RSA.
    """
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise MisuseError(f"Expected an RSA key to sign a SCEP message, found a {type(private_key).__name__}.")
    attributes = der.set_of(*_attributes(header, envelope or b"", digest))
    digest_algorithm = _digest_algorithm(digest)
    algorithm = der.sequence(der.oid(RSA_ENCRYPTION), der.NULL)
    signature = private_key.sign(attributes, padding.PKCS1v15(), digest)
    return signed_data((certificate, *chain), digest_algorithm, attributes, algorithm, signature, envelope)


def to_query(message: bytes) -> str:
    """The value of ``message`` in a PKIOperation by GET, before percent-encoding (RFC 8894, 4.1)."""
    return base64.b64encode(message).decode("ascii")


def from_query(text: str) -> bytes:
    """The message of a PKIOperation by GET, after percent-decoding. Raises SCEPError.

    It accepts the URL-safe alphabet and missing padding, which some clients send, and a space for a plus sign that was
    not percent-encoded.
    """
    plain = text.replace(" ", "+").replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise SCEPError(f"the message of the PKIOperation is not base64: {error}") from error


def _attributes(header: Header, content: bytes, digest: hashes.HashAlgorithm) -> list[bytes]:
    hashed = hashes.Hash(digest)
    hashed.update(content)
    values = {
        cms_signing.CONTENT_TYPE: der.oid(DATA),
        cms_signing.MESSAGE_DIGEST: der.encode(der.OCTET_STRING, hashed.finalize()),
        MESSAGE_TYPE: _printable(str(int(header.message_type))),
        TRANSACTION_ID: _printable(header.transaction_id),
        SENDER_NONCE: der.encode(der.OCTET_STRING, header.sender_nonce),
    }
    if header.recipient_nonce is not None:
        values[RECIPIENT_NONCE] = der.encode(der.OCTET_STRING, header.recipient_nonce)
    if header.status is not None:
        values[PKI_STATUS] = _printable(str(int(header.status)))
    if header.fail_code is not None:
        values[FAIL_INFO] = _printable(str(header.fail_code))
    if header.fail_text is not None:
        values[FAIL_INFO_TEXT] = der.encode(der.UTF8_STRING, header.fail_text.encode())
    return [der.sequence(der.oid(oid), der.set_of(value)) for oid, value in values.items()]


def _printable(text: str) -> bytes:
    return der.encode(der.PRINTABLE_STRING, text.encode("ascii"))


def _digest_algorithm(digest: hashes.HashAlgorithm) -> bytes:
    oid = next(oid for oid, known in DIGESTS.items() if known.name == digest.name)
    # SHA-2 is encoded without parameters (RFC 5754, 2), SHA-1 and MD5 with a NULL (RFC 3370, 2).
    return der.sequence(der.oid(oid), der.NULL if digest.name in ("md5", "sha1") else b"")


def _header(attributes: Mapping[str, tuple[bytes, ...]]) -> Header:
    try:
        message_type = MessageType(_number(attributes, MESSAGE_TYPE, "messageType"))
        status = PKIStatus(_number(attributes, PKI_STATUS, "pkiStatus")) if PKI_STATUS in attributes else None
    except ValueError as error:
        raise SCEPError(f"the messageType or pkiStatus of the SCEP message is unknown: {error}") from error
    transaction_id = _text(attributes, TRANSACTION_ID, "transactionID")
    if not 0 < len(transaction_id) <= MAX_TRANSACTION_ID or not transaction_id.isascii():
        raise SCEPError(
            f"expected 1 to {MAX_TRANSACTION_ID} ASCII characters as transactionID, found {transaction_id[:40]!r}"
        )
    return Header(
        message_type,
        transaction_id,
        _nonce(attributes, SENDER_NONCE, "senderNonce"),
        _nonce(attributes, RECIPIENT_NONCE, "recipientNonce") if RECIPIENT_NONCE in attributes else None,
        status,
        _number(attributes, FAIL_INFO, "failInfo") if FAIL_INFO in attributes else None,
        _text(attributes, FAIL_INFO_TEXT, "failInfoText") if FAIL_INFO_TEXT in attributes else None,
    )


def _value(attributes: Mapping[str, tuple[bytes, ...]], oid: str, name: str) -> der.Element:
    values = attributes.get(oid, ())
    if len(values) != 1:
        raise SCEPError(f"expected one {name} in the SCEP message, found {len(values) or 'none'}")
    return der.read(values[0])


def _text(attributes: Mapping[str, tuple[bytes, ...]], oid: str, name: str) -> str:
    element = _value(attributes, oid, name)
    if element.tag not in _TEXT_TAGS:
        raise SCEPError(f"expected a PrintableString for the {name}, found tag 0x{element.tag:02x}")
    return element.body.decode("utf-8", "replace")


def _number(attributes: Mapping[str, tuple[bytes, ...]], oid: str, name: str) -> int:
    text = _text(attributes, oid, name)
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        raise SCEPError(f"expected a decimal number for the {name}, found {text[:20]!r}")
    return int(text)


def _nonce(attributes: Mapping[str, tuple[bytes, ...]], oid: str, name: str) -> bytes:
    nonce = _value(attributes, oid, name).expect(der.OCTET_STRING, f"the {name}").body
    if not 0 < len(nonce) <= MAX_NONCE_BYTES:
        raise SCEPError(f"expected a {name} of {NONCE_BYTES} bytes, found {len(nonce)}")
    return nonce
