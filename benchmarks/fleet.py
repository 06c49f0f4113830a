"""Cost of 100,000 Macs before the first one connects: seconds and memory.

    python benchmarks/fleet.py [MACS]

A fleet makes its Macs when they are asked for, so that the fleet alone costs next to nothing; here every one is asked
for. Reported apart is who they are (the Macs as the seed gives them), which an idle Mac does not keep. The floor
of the time is one keyed hash for each Mac, that of the memory one empty slot in a list.
"""

from __future__ import annotations

import hashlib
import sys
import time

from enrolled import EnrolledFleet, resident_bytes
from table import verdict

from agent.pki.issuing.authority import Authority

MIB = 1024 * 1024
AIM_SECONDS, AIM_MIB = 5.0, 250.0


def main() -> None:
    """Make all Macs, derive their values, look some up."""
    macs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    authority = Authority.create("Benchmark CA")
    start = resident_bytes()
    began = time.perf_counter()
    fleet = EnrolledFleet(macs, authority, "https://mdm.invalid").fleet
    alone = time.perf_counter() - began
    for _ in fleet:
        pass
    made = time.perf_counter() - began
    grown = (resident_bytes() - start) / MIB
    assert sum(1 for _ in fleet.made()) == macs
    began = time.perf_counter()
    for index in fleet.indexes:
        _ = fleet.population[index]
    derived = time.perf_counter() - began
    began = time.perf_counter()
    for index in fleet.indexes:
        hashlib.blake2b(index.to_bytes(8, "little"), key=b"floor").digest()
    floor = time.perf_counter() - began
    whole = resident_bytes() / MIB
    print(f"{macs} Macs: the fleet {alone * 1000:.1f} ms, every Mac made {made:.2f} s (floor {floor:.2f} s)")
    print(f"they took {grown:.1f} MiB (floor {8 * macs / MIB:.1f} MiB), the whole process {whole:.0f} MiB")
    print(f"to derive who each of them is takes {derived:.2f} s, and is done when one is asked")
    print(verdict(f"{macs} Macs made and derived", made + derived, AIM_SECONDS, "s"))
    print(verdict(f"{macs} Macs, the whole process", whole, AIM_MIB, "MiB"))


if __name__ == "__main__":
    main()
