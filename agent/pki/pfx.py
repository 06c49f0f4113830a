"""A PKCS12 before its decryption: the cost limit, the password check, and its parts in a safe order.

Source: RFC 7292. OpenSSL derives keys for as many rounds as the file says, also for keys inside an encrypted part,
whose rounds cannot be counted beforehand. But it opens only the first key. So the parts are sorted such that this is a
key whose rounds were counted, and the MAC is computed again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from asn1crypto import algos, cms, core, keys, pkcs12

from agent.errors import PeerError

MAX_KDF_ROUNDS = 1_000_000  # of one key; OpenSSL writes 2,048, current Macs 1,000,000 at most
MAX_KDF_ROUNDS_IN_ALL = 4_000_000  # of one file: MAC, certificates and key; about a second and a half
_DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_MAC_KEY = b"\x03"  # RFC 7292, B.3: what the derived octets are for
_KEYS = ("key_bag", "pkcs8_shrouded_key_bag")


class PKCS12Error(PeerError):
    """A PKCS12 that is malformed, needs too many rounds, or is of an unsupported kind."""

    kind = "identity"


class MACMismatch(PKCS12Error):
    """The PKCS12 has another password, or was changed after it was made."""

    kind = "pkcs12_password"


def _set_up() -> None:
    """Have asn1crypto fill the tables of its classes, which it does at their first use: unsafe in two threads.

    It is called by the import of this module, which is safe.
    """
    for module in (algos, cms, core, keys, pkcs12):
        for each in list(vars(module).values()):
            if isinstance(each, type) and issubclass(each, core.Asn1Value) and each is not core.Choice:
                each()


_set_up()


def prepare(blob: bytes, password: str | None) -> tuple[bytes, bool]:
    """The same PKCS12 with a cheap MAC and its key before its encrypted parts, and whether it had a MAC to check.

    Raises MACMismatch for a wrong password, PKCS12Error for any other fault. A PKCS12 without a MAC, which is legal,
    reveals a wrong password only when it is decrypted.
    """
    try:
        pfx = pkcs12.Pfx.load(blob, strict=True)
        kind = pfx["auth_safe"]["content_type"].native
        if kind != "data":
            raise PKCS12Error(f"expected a PKCS12 with a password, found content of type {kind}")
        safes = list(pfx.authenticated_safe)
        _check_rounds([*_mac_rounds(pfx), *_safe_rounds(safes)])
        _check_key(safes)
        secret = _check_mac(pfx, password)
        safes.sort(key=lambda safe: safe["content_type"].native != "data")
        return _packed(safes, secret), secret is not None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise PKCS12Error(f"the payload is not a PKCS12: {error}") from error


def _check_rounds(counts: list[int]) -> None:
    if any(not 0 < count <= MAX_KDF_ROUNDS for count in counts) or sum(counts) > MAX_KDF_ROUNDS_IN_ALL:
        raise PKCS12Error(
            f"expected at most {MAX_KDF_ROUNDS:,} rounds for one key and {MAX_KDF_ROUNDS_IN_ALL:,} in all, "
            f"found {max(counts):,} and {sum(counts):,}"
        )


def _check_key(safes: list[cms.ContentInfo]) -> None:
    kinds = [bag["bag_id"].native for safe in safes for bag in _bags(safe)]
    if "safe_contents" in kinds:
        raise PKCS12Error("expected a PKCS12 without nested parts, found some")
    if not any(kind in _KEYS for kind in kinds):
        raise PKCS12Error("expected a private key outside of the encrypted parts of the PKCS12, found none")


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
    """The bags of a part that is not encrypted; none of an encrypted one."""
    if safe["content_type"].native != "data":
        return []
    return list(pkcs12.SafeContents.load(safe["content"].native, strict=True))


def _rounds(algorithm: algos.EncryptionAlgorithm) -> int:
    parameters = algorithm["parameters"]
    if algorithm["algorithm"].native != "pbes2":
        return int(parameters["iterations"].native)
    derivation = parameters["key_derivation_func"]
    if derivation["algorithm"].native != "pbkdf2":
        raise PKCS12Error(f"expected key derivation by PBKDF2, found {derivation['algorithm'].native}")
    return int(derivation["parameters"]["iteration_count"].native)


def _check_mac(pfx: pkcs12.Pfx, password: str | None) -> bytes | None:
    """The encoded password of the MAC; None if there is no MAC."""
    mac = pfx["mac_data"]
    if mac.native is None:
        return None
    name = mac["mac"]["digest_algorithm"]["algorithm"].native
    if name not in _DIGESTS:
        raise PKCS12Error(f"expected a MAC by one of {', '.join(_DIGESTS)}, found {name}")
    salt, rounds = mac["mac_salt"].native, int(mac["iterations"].native)
    for secret in _secrets(password):
        found = _mac(name, secret, salt, rounds, pfx["auth_safe"]["content"].native)
        if hmac.compare_digest(found, mac["mac"]["digest"].native):
            return secret
    raise MACMismatch("the PKCS12 does not open with the payload's Password, or was changed after it was made")


def _secrets(password: str | None) -> tuple[bytes, ...]:
    """RFC 7292, B.1: UTF-16 with a final NUL; for an empty password, some programs write the NUL and some nothing."""
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
