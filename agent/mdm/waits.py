"""How long a peer can make a Mac wait before it asks again."""

from __future__ import annotations

# The resolution of what a peer can ask for: Retry-After is whole seconds or a date of whole seconds (RFC 9110, 10.2.3),
# RetryDelay of a SCEP payload an integer of seconds. A shorter wait, such as what is left until a date or a number
# below the clock's resolution, would repeat a request without a pause.
SHORTEST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 3600.0  # ours: undocumented what macOS accepts


def asked_wait(seconds: float, longest: float = LONGEST_WAIT_SECONDS) -> float:
    """The wait, in seconds, for what a peer asked for; ``seconds`` is a number, or infinite."""
    return max(SHORTEST_WAIT_SECONDS, min(seconds, longest))
