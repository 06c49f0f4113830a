"""The CertRep with pkiStatus PENDING, which the lab's CA never sends."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa

from agent.pki.identity import Identity
from agent.pki.scep.messages import Header, MessageType, PKIMessage, PKIStatus, sign_message


def cert_rep_pending(message: PKIMessage, ca: Identity, sender_nonce: bytes) -> bytes:
    """The answer that asks the client to poll (RFC 8894, 3.3.2.3)."""
    asked = message.header
    header = Header(MessageType.CERT_REP, asked.transaction_id, sender_nonce, asked.sender_nonce, PKIStatus.PENDING)
    assert isinstance(ca.key, rsa.RSAPrivateKey)
    return sign_message(header, b"", ca.certificate, ca.key, message.digest)
