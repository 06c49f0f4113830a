"""The CA's side of SCEP: what a client asks, and the CertRep that answers it (RFC 8894, 3).

Whether to grant (the challenge, the names) and issuing the certificate are for the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

# Content that is empty, not absent: of the clients in the field some cannot read the latter.
NOTHING = b""
MAX_FAIL_TEXT = 255  # characters of failInfoText (RFC 8894, 3.2.1.4, asks for a short text)


@dataclass(frozen=True, slots=True)
class SCEPRequest:
    """What a client asks: ``csr`` in a PKCSReq or RenewalReq, ``issuer`` and ``subject`` (DER names) in a CertPoll."""

    message: PKIMessage
    cipher: Cipher
    csr: CertificateRequest | None = None
    issuer: bytes | None = None
    subject: bytes | None = None

    @property
    def signer(self) -> x509.Certificate:
        """The client's certificate: self-signed for a first one, the old one (for the caller to judge) in a renewal."""
        return self.message.signer


def read_request(message: PKIMessage, ca: Identity) -> SCEPRequest:
    """What ``message`` (from ``open_message``) asks of ``ca``, whose key is RSA.

    Raises SCEPFailure, whose ``fail_info`` is what to answer with ``cert_rep_failure``.
    """
    kind = message.header.message_type
    if kind not in (MessageType.PKCS_REQ, MessageType.RENEWAL_REQ, MessageType.CERT_POLL):
        raise SCEPFailure(FailInfo.BAD_REQUEST, f"a {kind.name} is not answered here")
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
    """A CertRep that hands ``issued`` (first) and ``chain`` to the signer of the request, in its own algorithms.

    Raises SCEPError where the signer's key is not RSA.
    """
    envelope = close_envelope(certificates_only([issued, *chain]), request.signer, request.cipher)
    header = _answer(request.message.header, sender_nonce, PKIStatus.SUCCESS)
    return sign_message(header, envelope, ca.certificate, _rsa(ca), request.message.digest)


def cert_rep_failure(
    message: PKIMessage, ca: Identity, sender_nonce: bytes, fail_info: FailInfo, text: str | None = None
) -> bytes:
    """A CertRep that refuses, with ``text`` for the person at the other end."""
    short = text[:MAX_FAIL_TEXT].encode("utf-8", "replace").decode() if text else None
    header = _answer(message.header, sender_nonce, PKIStatus.FAILURE, fail_info.code, short)
    return sign_message(header, NOTHING, ca.certificate, _rsa(ca), message.digest)


def _answer(
    asked: Header, sender_nonce: bytes, status: PKIStatus, fail_code: int | None = None, fail_text: str | None = None
) -> Header:
    return Header(
        MessageType.CERT_REP, asked.transaction_id, sender_nonce, asked.sender_nonce, status, fail_code, fail_text
    )


def _rsa(ca: Identity) -> rsa.RSAPrivateKey:
    if not isinstance(ca.key, rsa.RSAPrivateKey):
        raise MisuseError(f"a SCEP CA has an RSA key, not a {type(ca.key).__name__}")
    return ca.key


def _issuer_and_subject(content: bytes) -> tuple[bytes, bytes]:
    try:
        fields = der.Fields(der.read(content).expect(der.SEQUENCE, "an IssuerAndSubject"))
        issuer = fields.take(der.SEQUENCE, "the issuer").encoded
        return issuer, fields.take(der.SEQUENCE, "the subject").encoded
    except der.DERError as error:
        raise SCEPFailure(FailInfo.BAD_REQUEST, f"the CertPoll holds no IssuerAndSubject: {error}") from error
