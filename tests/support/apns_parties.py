"""Shared by the tests of push: a provider's requests, and Macs whose state the test sets."""

from __future__ import annotations

from agent.push.broker import Presence
from agent.push.requests import Provider

TOPIC = "com.apple.mgmt.External.test"
PROVIDER = Provider(TOPIC, certified=True)
NOW = 1_800_000_000.0


def token(index: int) -> bytes:
    """The token of one of SettableMacs."""
    return index.to_bytes(32, "big")


def fields(index: int = 0, **others: str | None) -> list[tuple[str, str]]:
    """The header fields of a good request; others by name (``_`` for ``-``), None to leave one out."""
    named: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "https",
        ":authority": "api.push.apple.com",
        ":path": f"/3/device/{token(index).hex()}",
    }
    for name, value in others.items():
        named[{"method": ":method", "path": ":path"}.get(name, name.replace("_", "-"))] = value
    return [(name, value) for name, value in named.items() if value is not None]


def payload(index: int = 0) -> bytes:
    """What wakes the Mac."""
    return b'{"mdm":"magic-%d"}' % index


class SettableMacs:
    """Macs 0 to ``count`` - 1, all online at first."""

    def __init__(self, count: int = 1, topic: str = TOPIC) -> None:
        self.standing = dict.fromkeys(range(count), Presence.ONLINE)
        self.topics = dict.fromkeys(range(count), topic)

    def find(self, token: bytes) -> int | None:
        """Whose token it is."""
        index = int.from_bytes(token, "big")
        return index if index in self.standing else None

    def presence(self, index: int) -> Presence:
        """How it stands."""
        return self.standing[index]

    def topic(self, index: int) -> str:
        """What it listens to."""
        return self.topics[index]

    def left_at(self, index: int) -> float:
        """When it left."""
        return NOW - 60.5 - index
