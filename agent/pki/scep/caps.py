"""The capabilities of a SCEP CA: the answer to GetCACaps, and the algorithms that follow (RFC 8894, 3.5.2)."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from cryptography.hazmat.primitives import hashes

from agent.pki.scep.envelope import Cipher
from agent.pki.scep.errors import SCEPError

MAX_BYTES = 16 * 1024  # the words below are 80 bytes


class Capability(StrEnum):
    """The keywords of RFC 8894, 3.5.2, and SHA-384.

    The RFC has no keyword for SHA-384, but strongSwan 5.9 expects it in the list, and finds no cipher without it.
    """

    AES = "AES"
    DES3 = "DES3"
    GET_NEXT_CA_CERT = "GetNextCACert"
    POST_PKI_OPERATION = "POSTPKIOperation"
    RENEWAL = "Renewal"
    SHA_1 = "SHA-1"
    SHA_256 = "SHA-256"
    SHA_384 = "SHA-384"
    SHA_512 = "SHA-512"
    SCEP_STANDARD = "SCEPStandard"
    UPDATE = "Update"


_BY_WORD = {capability.lower(): capability for capability in Capability}


class Capabilities(msgspec.Struct, frozen=True):
    """The capabilities of a CA; none if it does not answer GetCACaps."""

    words: frozenset[Capability] = frozenset()

    @property
    def digest(self) -> hashes.HashAlgorithm:
        """The digest for signing messages to this CA."""
        if self._any(Capability.SHA_256, Capability.SCEP_STANDARD):
            return hashes.SHA256()
        if self._any(Capability.SHA_512):
            return hashes.SHA512()
        return hashes.SHA1()  # noqa: S303 - the only choice of RFC 8894, 3.5.2, for a CA that names no other

    @property
    def cipher(self) -> Cipher:
        """The cipher for messages to this CA."""
        strong = self._any(Capability.AES, Capability.SCEP_STANDARD)
        return Cipher.AES_128_CBC if strong else Cipher.DES3_CBC

    @property
    def post(self) -> bool:
        """Whether PKIOperation is a POST; otherwise it is a GET with the message in base64."""
        return self._any(Capability.POST_PKI_OPERATION, Capability.SCEP_STANDARD)

    def _any(self, *words: Capability) -> bool:
        return not self.words.isdisjoint(words)


LAB_CAPABILITIES = Capabilities(
    frozenset(Capability) - {Capability.GET_NEXT_CA_CERT, Capability.UPDATE}  # what agent.pki.scep.ca supports
)


def parse_caps(answer: bytes) -> Capabilities:
    """Read the answer to GetCACaps: a keyword on each line, in any case; unknown ones are ignored, as the RFC says.

    Raises SCEPError if it is too long.
    """
    if len(answer) > MAX_BYTES:
        raise SCEPError(f"expected an answer to GetCACaps of at most {MAX_BYTES:,} bytes, found {len(answer):,}")
    words = (line.strip().lower() for line in answer.decode("ascii", "replace").splitlines())
    return Capabilities(frozenset(_BY_WORD[word] for word in words if word in _BY_WORD))


def render_caps(capabilities: Capabilities) -> bytes:
    """The answer to GetCACaps, of the type ``text/plain``."""
    return "".join(f"{word}\n" for word in Capability if word in capabilities.words).encode("ascii")
