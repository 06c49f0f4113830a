"""Compile floor.c and run it on the client's core: the least CPU time that an exchange can cost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from nginx import cores

_SOURCE = Path(__file__).with_name("floor.c")


class Floor:
    """The path of the compiled program."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "floor"
        subprocess.run(["cc", "-O2", "-o", self._program, _SOURCE, "-lssl", "-lcrypto"], check=True)

    def __call__(self, *arguments: object) -> float:
        """Run it; returns the µs of CPU that it prints."""
        command = [str(self._program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_on_the_clients_core)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
        return float(done.stdout)


def _on_the_clients_core() -> None:
    os.sched_setaffinity(0, {cores()[0]})
