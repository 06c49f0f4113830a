"""The one-time secrets in the lab's profiles: the challenges of SCEP, the client identifiers of ACME. No I/O."""

from __future__ import annotations

import secrets
from collections.abc import MutableSet

from cryptography import x509
from cryptography.hazmat.primitives import hashes

MAX_CHALLENGES = 1_000_000


class Challenges:
    """One-time secrets, each valid for one certificate. ``unused`` continues the unused ones of an earlier process."""

    def __init__(self, unused: MutableSet[str] | None = None) -> None:
        self._unused: MutableSet[str] = set() if unused is None else unused
        self.renewals: dict[str, bytes] = {}
        """SHA-256 of the certificates that were issued with the secrets of renewals; empty before that."""

    def new_challenge(self) -> str:
        """A new secret, for one enrollment profile."""
        if len(self._unused) >= MAX_CHALLENGES:
            self._unused.pop()
        challenge = secrets.token_urlsafe(24)
        self._unused.add(challenge)
        return challenge

    def renewal_challenge(self) -> str:
        """A new secret, for the renewal of a Mac."""
        if len(self.renewals) >= MAX_CHALLENGES:
            del self.renewals[next(iter(self.renewals))]
        challenge = self.new_challenge()
        self.renewals[challenge] = b""
        return challenge

    def is_unused(self, challenge: str) -> bool:
        """Whether the secret is known and not yet used."""
        return challenge in self._unused

    def use(self, challenge: str) -> bool:
        """Use the secret up; whether it was unused."""
        known = challenge in self._unused
        self._unused.discard(challenge)
        return known

    def issued(self, challenge: str, certificate: x509.Certificate) -> None:
        """Remember the certificate that was issued with the secret of a renewal."""
        if challenge in self.renewals:
            self.renewals[challenge] = certificate.fingerprint(hashes.SHA256())
