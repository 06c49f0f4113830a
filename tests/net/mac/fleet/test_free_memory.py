"""Free memory is given back after connections were closed or Macs made idle, at a bounded cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.net.mac.fleet.free_memory import LEAST, LOOKS, FreeMemory
from agent.processes import return_free_memory

CASES = [  # connections closed and Macs made idle before each moment at which it may be given back; how often it is
    ([(0, 0)], 0),
    ([(LEAST - 1, 0)], 0),
    ([(LEAST, 0), (0, 0)], 1),
    ([(0, LEAST), (0, 0)], 1),
    ([(LEAST - 2, 1), (1, 0), (LEAST - 1, 0)], 1),
    ([(LEAST, 0), (LEAST, LEAST)], 2),
]


@pytest.mark.parametrize(("moments", "given_back"), CASES)
def test_memory_is_given_back_once_enough_is_free(moments: list[tuple[int, int]], given_back: int) -> None:
    calls: list[None] = []
    memory, closed = FreeMemory(lambda: calls.append(None), lambda: 0.0), 0
    for more, made_idle in moments:
        closed += more
        memory.look(closed, made_idle)
        for _ in range(LOOKS - 1):
            memory.look(closed, 0)
    assert len(calls) == given_back


@pytest.mark.parametrize(("seconds", "looks"), [(0.001, LOOKS), (0.02, LOOKS), (0.1, 400)])
def test_call_that_takes_longer_is_made_less_often(seconds: float, looks: int) -> None:
    now, calls = [0.0], []

    def give_back() -> None:
        now[0] += seconds
        calls.append(number)

    memory = FreeMemory(give_back, lambda: now[0])
    for number in range(2000):
        memory.look(LEAST * number, 0)
    assert calls[1] - calls[0] == looks


def resident_kib() -> int:
    return int(Path("/proc/self/smaps_rollup").read_text().split("Rss:")[1].split()[0])


def test_pages_between_blocks_in_use_are_given_back() -> None:
    blocks = [bytes(2000) for _ in range(16_384)]  # 32 MiB of the C library's heap
    in_use = blocks[::64]
    del blocks
    before = resident_kib()
    if not return_free_memory():
        pytest.skip("expected glibc, found another C library")
    assert before - resident_kib() > 8 * 1024
    assert len(in_use) == 256
