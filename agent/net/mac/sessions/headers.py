"""The headers of a Mac's messages to its server, with Mdm-Signature where the enrollment has SignMessage."""

from __future__ import annotations

from agent.mdm import checkin
from agent.pki.mdm_signatures import Signatures
from agent.profiles.enrollment import Enrollment


def unsigned_headers(content_type: str, agent: str) -> dict[str, str]:
    """The headers of every message of this type."""
    return {"User-Agent": agent, "Content-Type": content_type}


def signature_headers(enrollment: Enrollment, body: bytes, signatures: Signatures | None) -> dict[str, str]:
    """Mdm-Signature of a body; empty where the enrollment has no SignMessage."""
    if not enrollment.sign_message:
        return {}
    return {"Mdm-Signature": (signatures or Signatures()).header(body, enrollment.identity)}


def message_headers(
    enrollment: Enrollment,
    content_type: str,
    body: bytes,
    signatures: Signatures | None = None,
    *,
    agent: str = checkin.USER_AGENT,
) -> dict[str, str]:
    """All headers of one message."""
    return unsigned_headers(content_type, agent) | signature_headers(enrollment, body, signatures)
