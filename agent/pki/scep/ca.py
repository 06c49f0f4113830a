"""The CA's side of SCEP: reads a client's request, and writes the CertRep (RFC 8894, 3).

The caller decides whether to grant it (the challenge, the names), and issues the certificate.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.errors import MisuseError
from agent.pki import der
from agent.pki.identity import Identity
from agent.pki.scep.cacert import certificates_only
from agent.pki.scep.csr import CertificateRequest, read_csr
from agent.pki.scep.envelope import Cipher, close_envelope, open_envelope
from agent.pki.scep.errors import FailInfo, SCEPFailure
from agent.pki.scep.messages import Header, MessageType, PKIMessage, PKIStatus, sign_message

# Empty content instead of none: some clients cannot read the latter.
NO_CONTENT = b""
MAX_FAIL_TEXT = 255  # characters of failInfoText (RFC 8894, 3.2.1.4, asks for a short text)


class SCEPRequest(msgspec.Struct, frozen=True):
    """A client's request."""

    message: PKIMessage
    cipher: Cipher
    csr: CertificateRequest | None = None
    """Of a PKCSReq or RenewalReq."""
    issuer: bytes | None = None
    """Of a CertPoll: the issuer's name in DER."""
    subject: bytes | None = None
    """Of a CertPoll: the subject's name in DER."""

    @property
    def signer(self) -> x509.Certificate:
        """The client's certificate: self-signed in a first request; in a renewal the old one, not verified yet."""
        return self.message.signer


def read_request(message: PKIMessage, ca: Identity) -> SCEPRequest:
    """The request in ``message`` (from ``open_message``) to ``ca``, whose key is RSA.

    Raises SCEPFailure with the ``fail_info`` for ``cert_rep_failure``.
    """
    kind = message.header.message_type
    if kind not in (MessageType.PKCS_REQ, MessageType.RENEWAL_REQ, MessageType.CERT_POLL):
        raise SCEPFailure(FailInfo.BAD_REQUEST, f"expected a PKCSReq, RenewalReq or CertPoll, found a {kind.name}")
    opened = open_envelope(message.envelope, _rsa(ca), ca.certificate)
    if kind is MessageType.CERT_POLL:
        issuer, subject = _issuer_and_subject(opened.content)
        return SCEPRequest(message, opened.cipher, issuer=issuer, subject=subject)
    return SCEPRequest(message, opened.cipher, csr=read_csr(opened.content))


def cert_rep_success(
    request: SCEPRequest,
    ca: Identity,
    sender_nonce: bytes,
    issued: x509.Certificate,
    chain: Sequence[x509.Certificate] = (),
) -> bytes:
    """A CertRep with ``issued`` and then ``chain``, encrypted to the signer of the request with its algorithms.

    Raises SCEPError if the signer's key is not RSA.
    """
    envelope = close_envelope(certificates_only([issued, *chain]), request.signer, request.cipher)
    header = _answer(request.message.header, sender_nonce, PKIStatus.SUCCESS)
    return sign_message(header, envelope, ca.certificate, _rsa(ca), request.message.digest)


def cert_rep_failure(
    message: PKIMessage, ca: Identity, sender_nonce: bytes, fail_info: FailInfo, text: str | None = None
) -> bytes:
    """A CertRep that refuses, with ``text`` as its failInfoText."""
    short = text[:MAX_FAIL_TEXT].encode("utf-8", "replace").decode() if text else None
    header = _answer(message.header, sender_nonce, PKIStatus.FAILURE, fail_info.code, short)
    return sign_message(header, NO_CONTENT, ca.certificate, _rsa(ca), message.digest)


def _answer(
    asked: Header, sender_nonce: bytes, status: PKIStatus, fail_code: int | None = None, fail_text: str | None = None
) -> Header:
    return Header(
        MessageType.CERT_REP, asked.transaction_id, sender_nonce, asked.sender_nonce, status, fail_code, fail_text
    )


def _rsa(ca: Identity) -> rsa.RSAPrivateKey:
    if not isinstance(ca.key, rsa.RSAPrivateKey):
        raise MisuseError(f"Expected a SCEP CA with an RSA key, found a {type(ca.key).__name__}.")
    return ca.key


def _issuer_and_subject(content: bytes) -> tuple[bytes, bytes]:
    try:
        fields = der.Fields(der.read(content).expect(der.SEQUENCE, "an IssuerAndSubject"))
        issuer = fields.take(der.SEQUENCE, "the issuer").encoded
        return issuer, fields.take(der.SEQUENCE, "the subject").encoded
    except der.DERError as error:
        raise SCEPFailure(FailInfo.BAD_REQUEST, f"the CertPoll has no IssuerAndSubject: {error}") from error
