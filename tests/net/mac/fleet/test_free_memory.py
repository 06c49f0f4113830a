"""Free memory is given back after a fall in what is in use, and not while as much is taken as is freed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.net.mac.fleet.free_memory import LOOKS, FreeMemory
from agent.processes import return_free_memory

CASES = [  # connections and active Macs, each for as long as lies between two calls; how often memory is given back
    ([0, 50, 0], 0),  # a small fleet
    ([500, 480, 500, 470, 500], 0),  # connections that are closed and opened again
    ([500, 437], 0),
    ([500, 436], 1),
    ([500, 436, 373, 372, 372], 2),  # each after as many again
    ([8000, 0, 0, 300, 0], 2),
]


@pytest.mark.parametrize(("numbers", "given_back"), CASES)
def test_memory_is_given_back_after_a_fall(numbers: list[int], given_back: int) -> None:
    calls: list[None] = []
    memory = FreeMemory(lambda: calls.append(None))
    for in_use in numbers:
        for _ in range(LOOKS):
            memory.look(in_use)
    assert len(calls) == given_back


def test_memory_is_not_given_back_more_often_than_its_visit_is_worth() -> None:
    calls: list[None] = []
    memory = FreeMemory(lambda: calls.append(None))
    for in_use in range(LOOKS * 100, 0, -100):
        memory.look(in_use)
    assert len(calls) == 1


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
