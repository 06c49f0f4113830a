"""When a Mac opens a session by itself: after a failure, and after NotNow."""

from __future__ import annotations

import math

import msgspec

from agent.errors import MisuseError
from agent.mdm.waits import LONGEST_WAIT_SECONDS

RETRY_FIRST_SECONDS = 1.0  # undocumented: the first delay of the exponential back-off
RETRY_LONGEST_SECONDS = 60.0  # undocumented: its longest delay
NOT_NOW_RETRY_SECONDS = 60.0  # undocumented: the wait after NotNow until the Mac opens a session by itself
_MOST_DOUBLINGS = 64  # of the back-off; more could overflow a float


class Timing(msgspec.Struct, frozen=True):
    """When the Mac opens a session by itself; all in seconds. Raises MisuseError unless each is finite and above 0.

    After a broken connection, a 5xx or a 429 it waits ``retry_first``; the wait doubles with each further failure. The
    jitter makes it shorter, by half at most.
    """

    retry_first: float = RETRY_FIRST_SECONDS
    """The wait after the first failure."""
    retry_longest: float = RETRY_LONGEST_SECONDS
    """The longest wait of the back-off."""
    retry_after_longest: float = LONGEST_WAIT_SECONDS
    """The longest wait that a Retry-After header of the server can set; the shortest is a second."""
    not_now: float = NOT_NOW_RETRY_SECONDS
    """The wait after a session whose last status was NotNow."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            seconds = getattr(self, name)
            if not (0.0 < seconds < math.inf):
                raise MisuseError(f"Expected a positive number of seconds for {name}, found {seconds}.")

    def back_off(self, failures: int, jitter: float) -> float:
        """The wait after a failure that ``failures`` others precede."""
        longest = min(self.retry_longest, self.retry_first * 2.0 ** min(failures, _MOST_DOUBLINGS))
        return longest * (0.5 + 0.5 * jitter)


DEFAULT_TIMING = Timing()
