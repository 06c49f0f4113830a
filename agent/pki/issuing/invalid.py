"""Client certificates that a server should refuse, for a Mac whose identity is replaced by a fault rule.

Both have the Mac's own key and subject, so nothing but the issuer and the dates tells them from its own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, Authority

_AGE = timedelta(days=30)


def of_another_ca(identity: Identity) -> Identity:
    """A valid certificate of a CA that no server trusts; the CA is made once for the process."""
    certificate = _other_ca().certify(identity.key.public_key(), identity.certificate.subject, CLIENT_USAGE)
    return Identity(certificate, identity.key)


def expired(identity: Identity) -> Identity:
    """A certificate that expired yesterday. It is self-signed, because its CA does not issue expired ones."""
    now = datetime.now(UTC)
    certificate = Authority(identity).certify(
        identity.key.public_key(),
        identity.certificate.subject,
        CLIENT_USAGE,
        not_before=now - _AGE,
        not_after=now - timedelta(days=1),
    )
    return Identity(certificate, identity.key)


@cache
def _other_ca() -> Authority:
    return Authority.create("lom-agent throwaway CA")
