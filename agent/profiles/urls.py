"""The URLs of a payload."""

from __future__ import annotations

from urllib.parse import urlsplit

from agent.profiles.errors import malformed
from agent.profiles.profile import Payload


def checked_url(payload: Payload, url: str, key: str, schemes: tuple[str, ...] = ("https",)) -> str:
    """The URL that ``payload`` has in ``key``. Raises ProfileError if it is none of one of these schemes."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        kind = " or ".join(sorted(schemes))
        raise malformed(f"{key} of the payload “{payload.name}”: expected an {kind} URL, found {url[:200]!r}")
    return url
