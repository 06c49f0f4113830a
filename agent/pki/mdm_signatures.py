"""The ``Mdm-Signature`` headers of a process's Macs, of which some are used again.

PKCS #1 v1.5 is deterministic (RFC 8017, 8.2), and signingTime has a resolution of one second: within a second the
signature of the same body by the same RSA key has the same bytes. A signature of an earlier second differs in its
signingTime alone. Whether macOS uses one again is not known, so that is an option.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

from cryptography.hazmat.primitives.asymmetric import rsa

from agent.pki.cms_signing import DetachedSigner, mdm_signature
from agent.pki.identity import Identity

_MOST_OF_A_SECOND = 4096  # signatures, 3 KiB each; far more than a core makes in a second
_LONGEST_BODY = 1024  # of a message that may come again: Idle has 300 bytes
_NUMBERS = count()
_IDLE = b"<string>Idle</string>"  # the report that comes again; results have a CommandUUID


class Signatures:
    """Makes the signatures. ``reuse`` is for how many seconds that of Idle is used again; 0: within its second only.

    ``made`` and ``reused`` count the headers. ``clock`` is the system's: it gives the signingTime.
    """

    def __init__(self, reuse: float = 0.0, clock: Callable[[], float] = lambda: datetime.now(UTC).timestamp()) -> None:
        self.made = 0
        self.reused = 0
        self._reuse = reuse
        self._clock = clock
        self._second = 0
        self._of_second: dict[tuple[int, bytes], str] = {}  # by the signer's number and body

    def header(self, body: bytes, identity: Identity) -> str:
        """The value of the header for ``body``."""
        now = self._clock()
        of_mac: _OfMac | None = identity.for_cms
        if of_mac is None:
            of_mac = identity.for_cms = _OfMac(identity)
        if self._reuse and body == of_mac.body and 0.0 <= now - of_mac.signed_at < self._reuse:
            self.reused += 1
            return of_mac.header
        second, key = int(now), (of_mac.number, body)
        if second != self._second:
            self._second = second
            self._of_second.clear()
        header = self._of_second.get(key)
        if header is not None:
            self.reused += 1
            return header
        header = mdm_signature(body, of_mac.signer, identity)
        self.made += 1
        if len(body) > _LONGEST_BODY:
            return header
        if self._reuse and _IDLE in body:
            of_mac.body, of_mac.header, of_mac.signed_at = body, header, now
        elif len(self._of_second) < _MOST_OF_A_SECOND and isinstance(identity.key, rsa.RSAPrivateKey):
            self._of_second[key] = header
        return header


class _OfMac:
    """What one Mac's signatures have in common, and the last one that may be used again."""

    __slots__ = ("body", "header", "number", "signed_at", "signer")

    def __init__(self, identity: Identity) -> None:
        self.signer = DetachedSigner(identity)
        self.number = next(_NUMBERS)
        self.body = b""
        self.header = ""
        self.signed_at = 0.0
