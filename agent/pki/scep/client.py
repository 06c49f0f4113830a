"""The Mac's side of SCEP: writes the request as a pkiMessage, and reads the CA's answer (RFC 8894, 2 to 4)."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.errors import MisuseError
from agent.pki import cms, der
from agent.pki.certificates import read_certificate
from agent.pki.identity import Identity
from agent.pki.scep.cacert import CACertificates
from agent.pki.scep.caps import Capabilities
from agent.pki.scep.envelope import close_envelope, open_envelope
from agent.pki.scep.errors import SCEPError, SCEPFailure
from agent.pki.scep.messages import Header, MessageType, PKIStatus, open_message, sign_message

SELF_SIGNED_LIFETIME = timedelta(days=7)  # time for a manual approval; RFC 8894, 2.3, recommends a short one
_BACKDATE = timedelta(hours=1)  # the CA's clock may differ


class Granted(msgspec.Struct, frozen=True):
    """The CA issued a certificate."""

    certificate: x509.Certificate
    certificates: tuple[x509.Certificate, ...]
    """Every certificate of the answer, often the issuer's too."""


class Pending(msgspec.Struct, frozen=True):
    """The CA has not decided; send a CertPoll in the same transaction later."""


def transaction_id(public_key: PublicKeyTypes) -> str:
    """The transactionID: the SHA-256 of the key in 64 hexadecimal digits (RFC 8894, 3.2.1.1)."""
    return _key_digest(public_key).hex().upper()


def self_signed(csr: bytes, private_key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
    """The certificate with which a Mac without one signs its first messages (RFC 8894, 2.3).

    Its subject is the request's. Its serial number follows from the key, so that every message of a transaction has the
    same issuer and serial number. ``now`` has a time zone.
    """
    subject = _subject(csr)
    usage = x509.KeyUsage(True, False, True, False, False, False, False, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(int.from_bytes(_key_digest(private_key.public_key())[:15], "big") | 1)
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + SELF_SIGNED_LIFETIME)
        .add_extension(usage, critical=True)
        .sign(private_key, hashes.SHA256())
    )


def build_pki_message(
    csr: bytes,
    private_key: rsa.RSAPrivateKey,
    ca: CACertificates,
    caps: Capabilities,
    transaction_id: str,
    sender_nonce: bytes,
    *,
    now: datetime,
    message_type: MessageType = MessageType.PKCS_REQ,
    renewed: Identity | None = None,
) -> bytes:
    """The DER of a PKCSReq, RenewalReq or CertPoll for ``csr``, the message of a PKIOperation.

    ``sender_nonce`` is 16 new random bytes for each message. A RenewalReq (and its CertPoll) is signed by the identity
    ``renewed``, the others by a self-signed certificate of ``private_key``. Raises MisuseError for a key that is not
    RSA or for another message type, SCEPError for a CA without an RSA key.
    """
    content = _content(csr, ca, message_type)
    if renewed is None and message_type is MessageType.RENEWAL_REQ:
        raise MisuseError("Expected the identity to renew for a RenewalReq, found none.")
    signer, key = (
        (self_signed(csr, private_key, now), private_key) if renewed is None else (renewed.certificate, renewed.key)
    )
    if not isinstance(key, rsa.RSAPrivateKey):
        raise MisuseError(f"Expected an RSA key to sign a SCEP message, found a {type(key).__name__}.")
    envelope = close_envelope(content, ca.recipient, caps.cipher)
    header = Header(message_type, transaction_id, sender_nonce)
    return sign_message(header, envelope, signer, key, caps.digest)


def parse_cert_rep(
    data: bytes,
    csr: bytes,
    private_key: rsa.RSAPrivateKey,
    ca: CACertificates,
    transaction_id: str,
    sender_nonce: bytes,
) -> Granted | Pending:
    """The CA's answer to the message with this ``transaction_id`` and ``sender_nonce``.

    ``private_key`` signed that message, ``csr`` is its request. Raises SCEPFailure if the CA answered FAILURE,
    SCEPError where the answer is malformed, not from this CA, or not to this message.
    """
    message = open_message(data)
    header = message.header
    if message.signer not in ca.signers:
        name = message.signer.subject.rfc4514_string()
        raise SCEPError(f"expected an answer signed by a certificate from GetCACert, found the signer {name!r}")
    if header.message_type is not MessageType.CERT_REP or header.status is None:
        raise SCEPError(f"expected a CertRep with a pkiStatus, found a {header.message_type.name}")
    if header.transaction_id != transaction_id:
        raise SCEPError(f"expected an answer to transaction {transaction_id!r}, found {header.transaction_id!r}")
    if not hmac.compare_digest(header.recipient_nonce or b"", sender_nonce):
        raise SCEPError("expected the senderNonce as recipientNonce, found another one: an old or a forged answer")
    if header.status is PKIStatus.PENDING:
        return Pending()
    if header.status is PKIStatus.FAILURE:
        raise SCEPFailure(header.fail_info, _failure_text(header))
    return _granted(message.envelope, csr, private_key)


def _content(csr: bytes, ca: CACertificates, message_type: MessageType) -> bytes:
    if message_type in (MessageType.PKCS_REQ, MessageType.RENEWAL_REQ):
        return csr
    if message_type is MessageType.CERT_POLL:
        # IssuerAndSubject (RFC 8894, 3.3.3)
        return der.sequence(ca.issuer.subject.public_bytes(), _subject(csr).public_bytes())
    raise MisuseError(f"Expected a PKCSReq, RenewalReq or CertPoll, found a {message_type.name}.")


def _failure_text(header: Header) -> str:
    reason = header.fail_info or f"unknown failInfo {header.fail_code}"
    text = f"the CA refused the request: {reason}"
    return f"{text} ({header.fail_text[:500]})" if header.fail_text else text


def _granted(envelope: bytes, csr: bytes, private_key: rsa.RSAPrivateKey) -> Granted:
    try:
        certificates = cms.certificates_in(open_envelope(envelope, private_key).content, cached=False)
    except cms.CMSError as error:
        raise SCEPError(f"expected certificates in the answer, found something else: {error}") from error
    except SCEPFailure as error:
        # A failInfo is for a CA to send; here the CA's answer is malformed.
        raise SCEPError(f"the answer cannot be opened: {error}") from error
    wanted = _spki(x509.load_der_x509_csr(csr).public_key())
    for certificate in certificates:
        if _spki(certificate.public_key()) == wanted:
            others = (each.public_bytes(Encoding.DER) for each in certificates if each is not certificate)
            return Granted(certificate, (certificate, *map(read_certificate, others)))  # all Macs share those of the CA
    raise SCEPError(f"expected a certificate for the request's key in the answer, found {len(certificates)} others")


def _spki(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_digest(public_key: PublicKeyTypes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(_spki(public_key))
    return digest.finalize()


def _subject(csr: bytes) -> x509.Name:
    return x509.load_der_x509_csr(csr).subject
