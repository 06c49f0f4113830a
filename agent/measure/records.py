"""The record of one operation that ended: metrics count it, the trace writes it.

A record contains no body, key, password or query string, so that neither metrics nor trace can leak one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct, field

from agent.errors import LomAgentError, PeerError

OPERATIONS = (
    "enroll",
    "checkin",
    "session",
    "command",
    "lom_setup",
    "lom_device",
    "lom_link",
    "push",
    "enqueue",
    "delivery",
    "return",
)
HTTP_2, HTTP_1_1 = "HTTP/2", "HTTP/1.1"
HTTP_VERSIONS = (HTTP_2, HTTP_1_1)  # of the Macs' connections to their servers
STAGES = ("connect", "handshake", "handshake_resumed", "first_byte", "request", "key")  # the parts of an operation


class Failure(msgspec.Struct, frozen=True):
    """Why an operation failed."""

    kind: str
    """A short stable word to count by."""
    message: str
    """A sentence for people."""
    timed_out: bool = False
    """Whether it exceeded its time limit, so that its latency counts."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure of an exception; the kind of an exception that is not ours is its class name."""
        if isinstance(error, LomAgentError):
            return cls(error.kind, str(error), isinstance(error, PeerError) and error.timed_out)
        return cls(type(error).__name__, str(error) or type(error).__name__)


class Exchange(Struct, frozen=True):
    """One operation of one Mac: it succeeded, failed, or was cut short."""

    operation: str
    """One of OPERATIONS."""
    device: int
    """The Mac's index."""
    started: float
    """When it was due, in seconds since the epoch."""
    seconds: float
    """From then to its end, without ``key_wait``."""
    failure: Failure | None = None
    """None if it succeeded or was cut short."""
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What the trace adds: status, request type and so on."""
    cut_short: str | None = None
    """The reason if this program itself ended it."""
    key_wait: float = 0.0
    """Seconds in which it waited for this machine to make an RSA key."""


Observer = Callable[[Exchange], None]
