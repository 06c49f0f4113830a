"""Gives memory back to the system after many connections were closed or many Macs serialised.

The C library keeps what was freed between blocks that are in use, and returns only what is at the end of the heap: a
closed TLS connection leaves 35 KiB. ``malloc_trim`` (malloc_trim(3)) returns every whole page that is free.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.processes import return_free_memory

_LEAST = 128  # connections and active Macs that are gone: some 5 MiB
_SHARE = 8  # or this part of the most there ever were: what is free already is visited again, 2 µs a connection


class FreeMemory:
    """``give_back`` returns free memory. Its time grows with what is free, so it is called after a fall alone.

    A server that closes each connection makes free as much as the next ones take: that is not returned.
    """

    def __init__(self, give_back: Callable[[], object] = return_free_memory) -> None:
        self._give_back = give_back
        self._most = 0  # since the last call
        self._most_ever = 0

    def look(self, in_use: int) -> None:
        """``in_use`` is how many connections are open and Macs active now."""
        if in_use > self._most:
            self._most = in_use
            self._most_ever = max(self._most_ever, in_use)
        elif self._most - in_use >= max(_LEAST, self._most_ever // _SHARE):
            self._most = in_use
            self._give_back()
