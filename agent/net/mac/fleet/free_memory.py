"""Gives memory back to the system after many connections were closed or many Macs serialised.

The C library keeps what was freed between blocks that are in use, and returns only what is at the end of the heap: a
closed TLS connection leaves 35 KiB. ``malloc_trim`` (malloc_trim(3)) returns every whole page that is free.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.processes import return_free_memory

LOOKS = 80  # between two calls: four seconds
LEAST = 64  # connections and active Macs that are gone: 2 MiB


class FreeMemory:
    """``give_back`` returns free memory. It visits all that is free, some 2 µs for each closed connection, even again.

    So it is called once in LOOKS, and only after a fall: what a server that closes each connection makes free, the next
    ones take.
    """

    def __init__(self, give_back: Callable[[], object] = return_free_memory) -> None:
        self._give_back = give_back
        self._most = 0  # in use since the last call
        self._looks = 0

    def look(self, in_use: int) -> None:
        """``in_use`` is how many connections are open and Macs active now; called every 50 ms."""
        self._most = max(self._most, in_use)
        self._looks += 1
        if self._looks < LOOKS:
            return
        self._looks = 0
        if self._most - in_use >= LEAST:
            self._most = in_use
            self._give_back()
