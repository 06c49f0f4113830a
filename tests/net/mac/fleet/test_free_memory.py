"""Free memory is given back after a fall in what is in use, and not while as much is taken as is freed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.net.mac.fleet.free_memory import FreeMemory
from agent.processes import return_free_memory

CASES = [  # connections and active Macs at each look, how often memory is given back
    ([0, 50, 100, 0], 0),  # a small fleet
    ([500, 480, 500, 470, 500], 0),  # connections that are closed and opened again
    ([500, 373], 0),
    ([500, 372], 1),
    ([500, 372, 245, 244], 2),  # each after as many again
    ([8000, 7001, 7000, 6500, 6000, 5500], 2),  # an eighth of the most there were
    ([8000, 0, 300, 100, 500, 0], 1),
    ([200, 0, 200, 0], 2),
]


@pytest.mark.parametrize(("looks", "given_back"), CASES)
def test_memory_is_given_back_after_a_fall(looks: list[int], given_back: int) -> None:
    calls: list[None] = []
    memory = FreeMemory(lambda: calls.append(None))
    for in_use in looks:
        memory.look(in_use)
    assert len(calls) == given_back


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
