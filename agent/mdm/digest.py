"""The answer to the DigestChallenge of UserAuthenticate: HTTP Digest access authentication, as RFC 7616 has it. No I/O.

Apple calls the challenge "the standard HTTP digest" and leaves the rest open. Our choice: the method is PUT, the URI is
the path of CheckInURL, and a challenge without ``Digest`` in front is read as well.
Source: Apple, "Enabling network and mobile user logins"; apple-schema checkin/userauthenticate.yaml.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

from agent.errors import PeerError

MAX_CHALLENGE = 4096  # characters; ours
METHOD = "PUT"
_NONCE_COUNT = "00000001"
_PART = re.compile(r'([A-Za-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s",]+))\s*(?:,\s*|$)')
_ALGORITHMS: Mapping[str, Callable[[bytes], hashlib._Hash]] = {"md5": hashlib.md5, "sha-256": hashlib.sha256}


class DigestRefused(PeerError):
    """A DigestChallenge that a Mac cannot answer."""

    kind = "digest_challenge"


def digest_response(challenge: str, name: str, password: str, uri: str, client_nonce: str) -> str:
    """The DigestResponse of a user. Raises DigestRefused for a challenge that is not one of HTTP Digest."""
    parts = parts_of(challenge)
    algorithm = parts.get("algorithm", "MD5")
    if algorithm.lower() not in _ALGORITHMS:
        raise DigestRefused(f"DigestChallenge: expected the algorithm MD5 or SHA-256, found {algorithm[:80]}")
    offered = [each.strip() for each in parts.get("qop", "").split(",")]
    if offered != [""] and "auth" not in offered:
        raise DigestRefused(f"DigestChallenge: expected auth in qop, found {parts['qop'][:80]}")
    realm, nonce = parts["realm"], parts["nonce"]
    with_qop = offered != [""]
    response = digest(algorithm, realm, nonce, name, password, uri, client_nonce if with_qop else "")
    answer = [f'username="{name}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{uri}"', f'response="{response}"']
    if "algorithm" in parts:
        answer.append(f"algorithm={algorithm}")
    if "opaque" in parts:
        answer.append(f'opaque="{parts["opaque"]}"')
    if with_qop:
        answer += ["qop=auth", f"nc={_NONCE_COUNT}", f'cnonce="{client_nonce}"']
    return f"Digest {', '.join(answer)}"


def digest(algorithm: str, realm: str, nonce: str, name: str, password: str, uri: str, client_nonce: str = "") -> str:
    """The value of ``response`` (RFC 7616, 3.4.1); with a client nonce for ``qop=auth``, else as RFC 2069 has it."""

    def hashed(text: str) -> str:
        return _ALGORITHMS[algorithm.lower()](text.encode()).hexdigest()

    middle = [nonce, _NONCE_COUNT, client_nonce, "auth"] if client_nonce else [nonce]
    return hashed(":".join([hashed(f"{name}:{realm}:{password}"), *middle, hashed(f"{METHOD}:{uri}")]))


def parts_of(text: str) -> dict[str, str]:
    """The parts of a challenge or a response by name, in lower case. Raises DigestRefused."""
    rest = text.strip()
    if len(rest) > MAX_CHALLENGE:
        raise DigestRefused(f"DigestChallenge: expected at most {MAX_CHALLENGE} characters, found {len(rest)}")
    scheme, _, after = rest.partition(" ")
    if scheme.lower() == "digest":
        rest = after.strip()
    parts: dict[str, str] = {}
    at = 0
    while at < len(rest):
        found = _PART.match(rest, at)
        if found is None:
            raise DigestRefused(f"DigestChallenge: expected a challenge of HTTP Digest, found {text[:80]!r}")
        parts[found[1].lower()] = found[2] if found[2] is not None else found[3]
        at = found.end()
    for key in ("realm", "nonce"):
        if key not in parts:
            raise DigestRefused(f"DigestChallenge: expected {key} in it, found {', '.join(sorted(parts)) or 'none'}")
    return parts
