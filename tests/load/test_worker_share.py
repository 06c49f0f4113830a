"""What each worker gets of the machine: cores, and memory for the quiet Macs."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.load.machine import limits as machine
from agent.load.machine import memory
from agent.load.machine.limits import workers_of
from agent.load.machine.memory import MACHINE_SHARE, MIB, memory_of_worker
from agent.scenario.types import LoadPart, LOMPart, Scenario, ServerPart

EMBEDDED, ELSEWHERE = ServerPart(), ServerPart(adapter="none", enroll="https://mdm.example/enroll")

CASES = [  # cores, server, load.workers, network, workers
    (4, EMBEDDED, 0, "loopback", 3),
    (1, EMBEDDED, 0, "loopback", 1),
    (4, EMBEDDED, 4, "loopback", 4),
    (4, ELSEWHERE, 0, "loopback", 4),
    (4, ELSEWHERE, 0, "interface:lo", 1),
]


@pytest.mark.parametrize(("cores", "server", "wanted", "network", "workers"), CASES)
def test_embedded_lab_has_a_core_of_its_own(
    monkeypatch: pytest.MonkeyPatch, cores: int, server: ServerPart, wanted: int, network: str, workers: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    scenario = Scenario(name="x", server=server, load=LoadPart(workers=wanted), lom=LOMPart(network=network))
    assert workers_of(scenario) == workers


@pytest.mark.parametrize(("mebibytes", "workers", "found"), [(512.0, 2, 256 * MIB), (0.0, 2, 0)])
def test_memory_is_divided_among_the_workers(mebibytes: float, workers: int, found: int) -> None:
    assert memory_of_worker(mebibytes, workers) == found


@pytest.mark.parametrize(("limit", "bounded"), [("8388608\n", True), ("max\n", False), (None, False)])
def test_machine_is_what_its_container_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, bounded: bool
) -> None:
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", file)
    share = memory_of_worker(None, 1)
    assert (share == 8 * MIB * MACHINE_SHARE) is bounded
    assert share > 0
