"""What a SCEP CA can do: the answer to GetCACaps, and what to choose by it (RFC 8894, 3.5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives import hashes

from agent.pki.scep.envelope import Cipher
from agent.pki.scep.errors import SCEPError

MAX_BYTES = 16 * 1024  # the words below are 80 bytes


class Capability(StrEnum):
    """The words of RFC 8894, 3.5.2, and SHA-384.

    A CA that reads SHA-384 says so although the RFC has no word for it: strongSwan 5.9 takes its place in the list for
    granted, and finds no cipher without it.
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


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of one CA; none of them where it does not answer GetCACaps."""

    words: frozenset[Capability] = frozenset()

    @property
    def digest(self) -> hashes.HashAlgorithm:
        """With which to sign messages to this CA."""
        if self._any(Capability.SHA_256, Capability.SCEP_STANDARD):
            return hashes.SHA256()
        if self._any(Capability.SHA_512):
            return hashes.SHA512()
        return hashes.SHA1()  # noqa: S303 - what RFC 8894, 3.5.2, leaves for a CA that names nothing better

    @property
    def cipher(self) -> Cipher:
        """With which to encrypt messages to this CA."""
        strong = self._any(Capability.AES, Capability.SCEP_STANDARD)
        return Cipher.AES_128_CBC if strong else Cipher.DES3_CBC

    @property
    def post(self) -> bool:
        """Whether PKIOperation is sent by POST; else by GET with the message in base64."""
        return self._any(Capability.POST_PKI_OPERATION, Capability.SCEP_STANDARD)

    def _any(self, *words: Capability) -> bool:
        return not self.words.isdisjoint(words)


LAB_CAPABILITIES = Capabilities(
    frozenset(Capability) - {Capability.GET_NEXT_CA_CERT, Capability.UPDATE}  # what agent.pki.scep.ca can do
)


def parse_caps(answer: bytes) -> Capabilities:
    """Read the answer to GetCACaps: words on lines, in any case; unknown ones are ignored, as the RFC says.

    Raises SCEPError where it is too long.
    """
    if len(answer) > MAX_BYTES:
        raise SCEPError(f"the answer to GetCACaps is {len(answer)} bytes long; at most {MAX_BYTES} are taken")
    words = (line.strip().lower() for line in answer.decode("ascii", "replace").splitlines())
    return Capabilities(frozenset(_BY_WORD[word] for word in words if word in _BY_WORD))


def render_caps(capabilities: Capabilities) -> bytes:
    """The answer to GetCACaps, to be sent as ``text/plain``."""
    return "".join(f"{word}\n" for word in Capability if word in capabilities.words).encode("ascii")
