"""The one timed record that every exchange leaves: metrics count it, the trace writes it down.

A record never holds a body, a key, a password or a query string, so that neither can leak one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
STAGES = ("connect", "handshake", "handshake_resumed", "first_byte", "request", "key")  # what an operation is made of


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an exchange failed: a short stable ``kind`` to count under, and a sentence for a person.

    ``timed_out`` says that it took longer than its time limit, so that its latency says something of the peer.
    """

    kind: str
    message: str
    timed_out: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception stands for; one that is not ours counts under its class's name."""
        if isinstance(error, LomAgentError):
            return cls(error.kind, str(error), isinstance(error, PeerError) and error.timed_out)
        return cls(type(error).__name__, str(error) or type(error).__name__)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One operation of one Mac: it succeeded, failed, or was cut short.

    ``operation`` is one of OPERATIONS; ``device`` the Mac's index; ``started`` the time at which it was due (seconds
    since the epoch); ``seconds`` from then to its end, without ``key_wait``, the seconds in which it waited for this
    machine to make an RSA key; ``facts`` what the trace adds (status, request type, â¦). ``cut_short`` is the reason
    where this program itself ended it; ``failure`` is then None.
    """

    operation: str
    device: int
    started: float
    seconds: float
    failure: Failure | None = None
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    cut_short: str | None = None
    key_wait: float = 0.0


Observer = Callable[[Exchange], None]
