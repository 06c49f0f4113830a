"""``lom-agent serve`` as a process, ready for its clients."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from forked import SECONDS, Forked

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    token: str
    ready: dict[str, Any]
    process: Forked

    def client(self) -> httpx.Client:
        """A client with the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=SECONDS, verify=False)

    def group(self) -> list[int]:
        """The processes of the command, itself first; its workers are started after it."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[2]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return sorted(found, key=lambda pid: (pid != self.process.pid, pid))


@contextmanager
def started_service(folder: Path, *arguments: str) -> Iterator[Service]:
    """The command with these arguments, until the end of the block; its log is then in ``folder/log``."""
    ready = folder / "ready.json"
    with Forked("serve", "--ready-file", str(ready), *arguments) as process:
        try:
            ends = time.monotonic() + SECONDS
            while not ready.exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < ends, "the service is not ready"
                time.sleep(POLL_SECONDS)
            found = json.loads(ready.read_text(encoding="utf-8"))
            yield Service(found["control"], found["token"], found, process)
        finally:
            process.send_signal(signal.SIGTERM)
            (folder / "log").write_bytes(process.communicate()[1])
