"""Gives memory back to the system after connections were closed or Macs serialised.

The C library keeps what was freed between blocks that are in use, and returns only what is at the end of the heap: a
closed TLS connection leaves 35 KiB. ``malloc_trim`` (malloc_trim(3)) returns every whole page that is free.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time

from agent.processes import return_free_memory

LOOKS = 80  # between two calls, at least: four seconds
LEAST = 64  # connections and Macs whose memory was freed since the last call: 2 MiB
LOOKS_FOR_A_SECOND = 4000  # that a call takes: at most 0.5 % of the time of a look each 50 ms


class FreeMemory:
    """``give_back`` returns free memory; ``cpu`` is the CPU time of this thread, in seconds.

    A call visits all that is free, even again: some 2 µs for each closed connection. What it returns, the next
    connections take from the system again. So the longer a call takes, the later is the next one.
    """

    def __init__(
        self, give_back: Callable[[], object] = return_free_memory, cpu: Callable[[], float] = thread_time
    ) -> None:
        self._give_back = give_back
        self._cpu = cpu
        self._made_idle = 0
        self._freed = 0  # connections and Macs, at the last call
        self._looks = LOOKS  # to the next call

    def look(self, closed: int, made_idle: int) -> None:
        """``closed`` connections so far, and Macs ``made_idle`` since the last look; called every 50 ms."""
        self._looks -= 1
        self._made_idle += made_idle
        freed = closed + self._made_idle
        if self._looks > 0 or freed - self._freed < LEAST:
            return
        began = self._cpu()
        self._give_back()
        self._freed = freed
        self._looks = max(LOOKS, round((self._cpu() - began) * LOOKS_FOR_A_SECOND))
