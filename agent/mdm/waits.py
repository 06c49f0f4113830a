"""The bounds of a wait that a peer asks for before the next request."""

from __future__ import annotations

# The resolution of such a wait: Retry-After is whole seconds or a date of whole seconds (RFC 9110, 10.2.3), and
# RetryDelay of a SCEP payload an integer of seconds. A shorter wait, such as the time that is left until a date, would
# repeat a request without a pause.
SHORTEST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 3600.0  # ours: the limit of macOS is not documented


def bounded_wait(seconds: float, longest: float = LONGEST_WAIT_SECONDS) -> float:
    """The wait in seconds where a peer asks for ``seconds``, which may be infinite."""
    return max(SHORTEST_WAIT_SECONDS, min(seconds, longest))
