"""CMS signatures (RFC 5652): the ``Mdm-Signature`` header, signed profiles, and the outer layer of SCEP messages.

``agent.pki.cms_signing`` makes them, this module verifies them. A signature is checked over the exact bytes. Whether
the signer is trusted (chain, validity, which Mac it is) is for the caller to decide by the certificate that is
returned.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from agent.errors import PeerError
from agent.pki import der
from agent.pki.certificates import CertificateError, read_certificate
from agent.pki.cms_signing import (
    CONTENT_TYPE,
    MESSAGE_DIGEST,
    SIGNED_DATA,
    issuer_and_serial,
)
from agent.pki.signatures import DIGESTS, LEGACY, Digests, SignatureError, check_signature, refuse_legacy

MAX_BYTES = 8 * 1024 * 1024  # of a signed profile, as in agent.plists; no standard gives a limit
MAX_CERTIFICATES = 64  # in one message; a chain has three or four

_SIGNED_DATA_OID = bytes.fromhex("06092a864886f70d010702")
_ENVELOPED_DATA_OID = bytes.fromhex("06092a864886f70d010703")


class CMSError(PeerError):
    """Malformed CMS, or a signature that is not valid."""

    kind = "cms"


class SignedContent(msgspec.Struct, frozen=True):
    """The content of a signed message whose signature is valid."""

    content: bytes
    certificates: tuple[x509.Certificate, ...]
    """Every certificate in the message, in its order."""
    signer: x509.Certificate
    digest: str = "sha256"
    """The signer's digest algorithm."""
    attributes: Mapping[str, tuple[bytes, ...]] = msgspec.field(default_factory=dict)
    """The signed attributes: dotted OID to the DER of each value."""
    legacy: bool = False
    """Whether the digest of the signer or of the signature is SHA-1 or MD5."""


class _SignerInfo(msgspec.Struct, frozen=True):
    """The fields of RFC 5652, 5.3, that are needed; ``signed`` is the SET OF the attributes in DER, or None."""

    issuer_and_serial: tuple[bytes, bytes] | None
    key_identifier: bytes | None
    digest: hashes.HashAlgorithm
    signed: bytes | None
    attributes: Mapping[str, tuple[bytes, ...]]
    algorithm: str
    signature: bytes


class _Message(msgspec.Struct, frozen=True):
    content_type: str
    content: bytes | None
    certificates: tuple[x509.Certificate, ...]
    signers: tuple[der.Element, ...]


def mdm_signature_signer(header: str, body: bytes) -> x509.Certificate:
    """The certificate that signed ``body``, from the ``Mdm-Signature`` header. Raises CMSError.

    The base64 is one line with its padding, as servers require.
    """
    if len(header) > MAX_BYTES:
        raise CMSError(f"expected an Mdm-Signature of at most {MAX_BYTES:,} characters, found {len(header):,}")
    try:
        signature = base64.b64decode(header.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CMSError(f"the Mdm-Signature is not one line of base64: {error}") from error
    return verify_detached(signature, body)


def verify_detached(signature_der: bytes, body: bytes, *, legacy: Digests = ()) -> x509.Certificate:
    """Check a detached signature over ``body`` and return its signer's certificate. Raises CMSError.

    ``legacy`` are the digests of LEGACY that are accepted too.
    """
    message = _read(signature_der)
    if message.content is not None:
        raise CMSError("expected a detached signature, found one with content")
    return _verify(message, body, legacy).signer


def open_signed(data: bytes, *, absent: bytes | None = None, legacy: Digests = ()) -> SignedContent:
    """Check an attached SignedData (DER, or BER with indefinite lengths) and return its content.

    ``absent`` is the content of a message without one; by default, that is an error. ``legacy`` are the digests of
    LEGACY that are accepted too. Raises CMSError, and nothing else, for any bytes.
    """
    message = _read(data)
    content = message.content if message.content is not None else absent
    if content is None:
        raise CMSError("expected a signed message with content, found a detached signature")
    return _verify(message, content, legacy)


def certificates_in(data: bytes, *, cached: bool = True) -> tuple[x509.Certificate, ...]:
    """The certificates of a SignedData, in its order, also where it has no signers. Nothing is verified.

    ``cached`` is as in ``read_certificate``. Raises CMSError.
    """
    return _read(data, cached=cached).certificates


def looks_signed(data: bytes) -> bool:
    """Whether ``data`` begins like a CMS SignedData rather than a property list."""
    return data[:1] == b"\x30" and _SIGNED_DATA_OID in data[:17]


def looks_encrypted(data: bytes) -> bool:
    """Whether ``data`` begins like a CMS EnvelopedData."""
    return data[:1] == b"\x30" and _ENVELOPED_DATA_OID in data[:17]


def _read(data: bytes, *, cached: bool = True) -> _Message:
    """ContentInfo and SignedData (RFC 5652, 3 and 5.1); the signers are not parsed yet."""
    if len(data) > MAX_BYTES:
        raise CMSError(f"expected a signed message of at most {MAX_BYTES:,} bytes, found {len(data):,}")
    if data[:1] != b"\x30":
        raise CMSError(f"not CMS: it begins with {data[:8]!r} instead of an ASN.1 sequence")
    try:
        content_info = der.Fields(der.read(data).expect(der.SEQUENCE, "a CMS ContentInfo"))
        kind = content_info.take(der.OBJECT_IDENTIFIER, "the content type").oid()
        if kind != SIGNED_DATA:
            raise CMSError(f"expected SignedData ({SIGNED_DATA}), found CMS of content type {kind}")
        wrapped = content_info.take(der.CONTEXT_0, "the SignedData")
        fields = der.Fields(_only(wrapped).expect(der.SEQUENCE, "a SignedData"))
        fields.take(der.INTEGER, "the version of the SignedData")
        fields.take(der.SET, "the digest algorithms")
        content_type, content = _encapsulated(fields.take(der.SEQUENCE, "the encapsulated content"))
        certificates = fields.optional(der.CONTEXT_0)
        fields.optional(der.CONTEXT_1)  # revocation lists
        signers = fields.take(der.SET, "the signers").children()
        read = _certificates(certificates, cached) if certificates is not None else ()
    except der.DERError as error:
        raise CMSError(f"not CMS: {error}") from error
    return _Message(content_type, content, read, tuple(signers))


def _encapsulated(element: der.Element) -> tuple[str, bytes | None]:
    fields = der.Fields(element)
    content_type = fields.take(der.OBJECT_IDENTIFIER, "the type of the encapsulated content").oid()
    content = fields.optional(der.CONTEXT_0)
    return content_type, None if content is None else _only(content).octets()


def _only(wrapper: der.Element) -> der.Element:
    inside = wrapper.children()
    if len(inside) != 1:
        raise der.DERError(f"expected one value inside tag 0x{wrapper.tag:02x}, found {len(inside)}")
    return inside[0]


def _certificates(certificates: der.Element, cached: bool) -> tuple[x509.Certificate, ...]:
    # Attribute certificates and other formats have context tags; they are not used here.
    found = [element for element in certificates.children() if element.tag == der.SEQUENCE]
    if len(found) > MAX_CERTIFICATES:
        raise CMSError(f"expected at most {MAX_CERTIFICATES} certificates in the message, found {len(found)}")
    try:
        return tuple(read_certificate(element.encoded, cached=cached) for element in found)
    except CertificateError as error:
        raise CMSError(f"a certificate of the message is refused: {error}") from error


def _verify(message: _Message, content: bytes, legacy: Digests) -> SignedContent:
    if len(message.signers) != 1:
        raise CMSError(f"expected one signer, found {len(message.signers) or 'none'}")
    try:
        signer_info = _signer_info(message.signers[0])
        signer = _find_signer(signer_info, message.certificates)
        if signer_info.signed is not None:
            _check_attributes(signer_info, message.content_type, content)
    except der.DERError as error:
        raise CMSError(f"not CMS: broken signer: {error}") from error
    except UnsupportedAlgorithm as error:
        raise CMSError(f"the cryptographic library refuses the signer's digest: {error}") from error
    signed = content if signer_info.signed is None else signer_info.signed
    try:
        refuse_legacy(signer_info.digest, legacy)
        used = check_signature(
            signer.public_key(),
            signer_info.algorithm,
            signer_info.signature,
            signed,
            digest=signer_info.digest,
            legacy=legacy,
        )
    except SignatureError as error:
        raise CMSError(str(error)) from error
    return SignedContent(
        content,
        message.certificates,
        signer,
        signer_info.digest.name,
        signer_info.attributes,
        type(signer_info.digest) in LEGACY or type(used) in LEGACY,
    )


def _signer_info(element: der.Element) -> _SignerInfo:
    fields = der.Fields(element.expect(der.SEQUENCE, "a SignerInfo"))
    fields.take(der.INTEGER, "the version of the SignerInfo")
    key_identifier = fields.optional(0x80, der.CONTEXT_0)
    issuer_and_serial = None
    if key_identifier is None:
        names = der.Fields(fields.take(der.SEQUENCE, "the signer's issuer and serial number"))
        issuer = names.take(der.SEQUENCE, "the signer's issuer").encoded
        issuer_and_serial = issuer, names.take(der.INTEGER, "the signer's serial number").body
    digest_oid = der.Fields(fields.take(der.SEQUENCE, "the digest algorithm")).take(
        der.OBJECT_IDENTIFIER, "the digest algorithm"
    )
    digest = DIGESTS.get(digest_oid.oid())
    if digest is None:
        raise CMSError(f"unknown digest algorithm {digest_oid.oid()}")
    attributes = fields.optional(der.CONTEXT_0)
    algorithm = der.Fields(fields.take(der.SEQUENCE, "the signature algorithm"))
    return _SignerInfo(
        issuer_and_serial=issuer_and_serial,
        key_identifier=key_identifier.octets() if key_identifier else None,
        digest=digest,
        # What is signed is the SET OF (0x31), not the [0] under which it is sent (RFC 5652, 5.4).
        signed=der.encode(der.SET, attributes.body) if attributes else None,
        attributes=_attributes(attributes) if attributes else {},
        algorithm=algorithm.take(der.OBJECT_IDENTIFIER, "the signature algorithm").oid(),
        signature=fields.take(der.OCTET_STRING, "the signature").body,
    )


def _attributes(element: der.Element) -> Mapping[str, tuple[bytes, ...]]:
    found: dict[str, tuple[bytes, ...]] = {}
    for attribute in element.children():
        fields = der.Fields(attribute.expect(der.SEQUENCE, "a signed attribute"))
        oid = fields.take(der.OBJECT_IDENTIFIER, "the type of a signed attribute").oid()
        if oid in found:
            raise CMSError(f"the signed attribute {oid} occurs twice")
        values = fields.take(der.SET, "its values").children()
        found[oid] = (values[0].encoded,) if len(values) == 1 else tuple([value.encoded for value in values])
    return MappingProxyType(found)


def _find_signer(info: _SignerInfo, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    for certificate in certificates:
        if info.key_identifier is not None:
            if _key_identifier(certificate) == info.key_identifier:
                return certificate
        elif issuer_and_serial(certificate) == info.issuer_and_serial:
            return certificate
    raise CMSError(f"the signer's certificate is not among the {len(certificates)} in the message")


def _key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _check_attributes(info: _SignerInfo, content_type: str, content: bytes) -> None:
    """Check content-type and message-digest: each must occur once, with one value (RFC 5652, 11.1 and 11.2)."""
    types, digests = info.attributes.get(CONTENT_TYPE, ()), info.attributes.get(MESSAGE_DIGEST, ())
    if len(types) != 1 or len(digests) != 1:
        raise CMSError("expected one content-type and one message-digest among the signed attributes")
    if (found := der.read(types[0]).oid()) != content_type:
        raise CMSError(f"expected the signed content-type {content_type}, found {found}")
    digest = hashes.Hash(info.digest)
    digest.update(content)
    expected = der.read(digests[0]).expect(der.OCTET_STRING, "the message digest").body
    if not hmac.compare_digest(digest.finalize(), expected):
        raise CMSError(f"the {info.digest.name} digest of the content is not the signed one")
