"""The outside of a PKCS12: what opening it would cost, whether the password is right, and its parts in a safe order.

Source: RFC 7292. OpenSSL derives keys for as many rounds as the file asks, again and again, also for keys that lie
inside an encrypted part, where their rounds cannot be counted beforehand. But it opens one key only, the first. So the
parts are put in an order in which that is a key that could be counted, and the MAC is made anew.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from asn1crypto import algos, cms, core, pkcs12

from agent.errors import PeerError

MAX_KDF_ROUNDS = 1_000_000  # of one key; OpenSSL writes 2,048, current Macs 1,000,000 at the most
MAX_KDF_ROUNDS_IN_ALL = 4_000_000  # of one file: MAC, certificates and key; about a second and a half
_DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_MAC_KEY = b"\x03"  # RFC 7292, B.3: what the derived octets are for
_KEYS = ("key_bag", "pkcs8_shrouded_key_bag")


class PKCS12Error(PeerError):
    """A PKCS12 whose outside is malformed, asks for too much, or is of a kind that is not read."""

    kind = "identity"


class MACMismatch(PKCS12Error):
    """The PKCS12 was not made with this password, or was changed since."""

    kind = "pkcs12_password"


def prepare(blob: bytes, password: str | None) -> tuple[bytes, bool]:
    """The same PKCS12, cheap to open and with its key before its encrypted parts, and whether its MAC was right.

    Raises MACMismatch for a wrong password, PKCS12Error for anything else. A PKCS12 without a MAC, which is legal,
    shows a wrong password only when it is opened.
    """
    try:
        pfx = pkcs12.Pfx.load(blob, strict=True)
        kind = pfx["auth_safe"]["content_type"].native
        if kind != "data":
            raise PKCS12Error(f"the payload is no PKCS12 under a password: its content is {kind}")
        safes = list(pfx.authenticated_safe)
        _check_rounds([*_mac_rounds(pfx), *_safe_rounds(safes)])
        _check_key(safes)
        secret = _check_mac(pfx, password)
        safes.sort(key=lambda safe: safe["content_type"].native != "data")
        return _packed(safes, secret), secret is not None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise PKCS12Error(f"the payload is no PKCS12: {error}") from error


def _check_rounds(counts: list[int]) -> None:
    if any(not 0 < count <= MAX_KDF_ROUNDS for count in counts) or sum(counts) > MAX_KDF_ROUNDS_IN_ALL:
        raise PKCS12Error(
            f"the PKCS12 asks for {max(counts)} rounds of key derivation at once and {sum(counts)} in all; "
            f"at most {MAX_KDF_ROUNDS} and {MAX_KDF_ROUNDS_IN_ALL} are done"
        )


def _check_key(safes: list[cms.ContentInfo]) -> None:
    kinds = [bag["bag_id"].native for safe in safes for bag in _bags(safe)]
    if "safe_contents" in kinds:
        raise PKCS12Error("the PKCS12 has parts within parts, which are not read")
    if not any(kind in _KEYS for kind in kinds):
        raise PKCS12Error("the PKCS12 should hold one private key outside of its encrypted parts, but has none there")


def _mac_rounds(pfx: pkcs12.Pfx) -> Iterator[int]:
    if pfx["mac_data"].native is not None:
        yield int(pfx["mac_data"]["iterations"].native)


def _safe_rounds(safes: list[cms.ContentInfo]) -> Iterator[int]:
    for safe in safes:
        if safe["content_type"].native == "encrypted_data":
            yield _rounds(safe["content"]["encrypted_content_info"]["content_encryption_algorithm"])
        for bag in _bags(safe):
            if bag["bag_id"].native == "pkcs8_shrouded_key_bag":
                yield _rounds(bag["bag_value"]["encryption_algorithm"])


def _bags(safe: cms.ContentInfo) -> list[pkcs12.SafeBag]:
    """What can be seen of a part without the password."""
    if safe["content_type"].native != "data":
        return []
    return list(pkcs12.SafeContents.load(safe["content"].native, strict=True))


def _rounds(algorithm: algos.EncryptionAlgorithm) -> int:
    parameters = algorithm["parameters"]
    if algorithm["algorithm"].native != "pbes2":
        return int(parameters["iterations"].native)
    derivation = parameters["key_derivation_func"]
    if derivation["algorithm"].native != "pbkdf2":
        raise PKCS12Error(f"the PKCS12 derives a key by {derivation['algorithm'].native}; only PBKDF2 is read")
    return int(derivation["parameters"]["iteration_count"].native)


def _check_mac(pfx: pkcs12.Pfx, password: str | None) -> bytes | None:
    """The octets of the password that the MAC was made with; None where there is no MAC."""
    mac = pfx["mac_data"]
    if mac.native is None:
        return None
    name = mac["mac"]["digest_algorithm"]["algorithm"].native
    if name not in _DIGESTS:
        raise PKCS12Error(f"the PKCS12 has a MAC by {name}; one of {', '.join(_DIGESTS)} was expected")
    salt, rounds = mac["mac_salt"].native, int(mac["iterations"].native)
    for secret in _secrets(password):
        found = _mac(name, secret, salt, rounds, pfx["auth_safe"]["content"].native)
        if hmac.compare_digest(found, mac["mac"]["digest"].native):
            return secret
    raise MACMismatch("the PKCS12 does not open with the payload's Password, or was changed after it was made")


def _secrets(password: str | None) -> tuple[bytes, ...]:
    """RFC 7292, B.1: UTF-16 with a final NUL; of no password, some write that NUL and some nothing at all."""
    if not password:
        return b"", b"\0\0"
    return (password.encode("utf-16-be", "surrogatepass") + b"\0\0",)


def _packed(safes: list[cms.ContentInfo], secret: bytes | None) -> bytes:
    content = pkcs12.AuthenticatedSafe(safes).dump(force=True)
    parts = {"version": 3, "auth_safe": {"content_type": "data", "content": core.OctetString(content)}}
    if secret is not None:
        salt = b"\0" * 8
        parts["mac_data"] = {
            "mac": {
                "digest_algorithm": {"algorithm": "sha256"},
                "digest": _mac("sha256", secret, salt, 1, content),
            },
            "mac_salt": salt,
            "iterations": 1,
        }
    return bytes(pkcs12.Pfx(parts).dump())


def _mac(name: str, secret: bytes, salt: bytes, rounds: int, content: bytes) -> bytes:
    """RFC 7292, 5.1 and appendix B.2, for a key as long as the digest, which takes one pass of B.2."""
    digest = getattr(hashlib, name)
    block = digest().block_size
    octets = _MAC_KEY * block + _filled(salt, block) + _filled(secret, block)
    for _ in range(rounds):
        octets = digest(octets).digest()
    return hmac.digest(octets, content, name)


def _filled(octets: bytes, block: int) -> bytes:
    """Repeated to fill whole blocks."""
    length = -(-len(octets) // block) * block
    return (octets * (length // len(octets) + 1))[:length] if octets else b""
