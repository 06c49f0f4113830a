"""A service with its lab for the tests of its clients, in a process that is forked: see ``forked``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forked import SECONDS, Forked

from agent.client import Fleet

LOOK_SECONDS = 0.02


@contextmanager
def forked_service(folder: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """The content of its ready file, ``folder/ready.json``."""
    file = folder / "ready.json"
    common = ("--lab", "--boot=constant:0.2", "--shutdown=constant:0.1", "--not-now-retry=0.5")
    with Forked("serve", *common, "--ready-file", str(file), *arguments, mixed=True) as process:
        ends = time.monotonic() + SECONDS
        while not file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < ends, "the service is not ready"
            time.sleep(LOOK_SECONDS)
        yield json.loads(file.read_text(encoding="utf-8"))


def connected(ready: dict[str, Any]) -> Fleet:
    """A client of it."""
    return Fleet.connect(ready["control"], ready["token"])
