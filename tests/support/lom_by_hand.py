"""`lom-device` and `lom-request` as processes, and files for them: for the tests of the link by hand."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from command import lom_agent
from forked import SECONDS, Forked

from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.pki.pem import certificate_pem, key_pem

DOCS = Path(__file__).parents[2] / "docs"
WORKED = re.findall(r"```hex\n(.*?)```", (DOCS / "lom-link.md").read_text(), re.DOTALL)
WORKED_REQUEST, WORKED_ANSWER, WORKED_REFUSAL, WORKED_ACKNOWLEDGEMENT = (bytes.fromhex(block) for block in WORKED)
WORKED_NAME, WORKED_UUID = "lomdevice.com", "0001"  # what those octets say

NOW = datetime.now(UTC)
EXPIRED = {"not_before": NOW - timedelta(days=2), "not_after": NOW - timedelta(days=1)}
DEVICES, CONTROLLERS = Authority.create("Devices"), Authority.create("Controllers")
DEVICE = DEVICES.issue(WORKED_NAME, LOM_USAGE, names=[WORKED_NAME])
CONTROLLER = CONTROLLERS.issue("controller.example", LOM_USAGE, names=["controller.example"])

EVENT_SECONDS = 30.0  # after which nothing more is coming


class Running:
    """A `lom-device --json` that runs: its address, its Devices, and its events."""

    def __init__(self, process: Forked) -> None:
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()
        listening = self.event()
        assert listening.pop("event") == "listening"
        self.address: str = listening["address"]
        self.port = int(self.address.rpartition(":")[2])
        self.names: list[str] = listening["devices"]

    def event(self) -> dict[str, Any]:
        """The next event, without its time."""
        line = self._lines.get(timeout=EVENT_SECONDS)
        assert line, "lom-device has ended"
        reported: dict[str, Any] = json.loads(line)
        assert reported.pop("at").endswith("+00:00")
        return reported

    def end(self) -> None:
        """Read to the end of its events."""
        self._reader.join(SECONDS)

    def _read(self, process: Forked) -> None:
        for line in process.stdout:
            self._lines.put(line)
        self._lines.put(b"")


@contextmanager
def lom_device(*arguments: str) -> Iterator[Running]:
    """`lom-agent lom-device --json` in the background, ended by Ctrl-C."""
    with Forked("lom-device", "--json", *arguments) as process:
        running = Running(process)
        try:
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            running.end()
            _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == b""


def files(folder: Path, name: str, identity: Identity, *anchors: Authority) -> list[str]:
    """Write an identity and the CAs that judge its peers; the options that name them."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(certificate_pem(identity.certificate))
    key.write_bytes(key_pem(identity.key))
    options = ["--cert", str(certificate), "--key", str(key)]
    for number, anchor in enumerate(anchors):
        ca = folder / f"{name}-ca-{number}.pem"
        ca.write_bytes(certificate_pem(anchor.certificate))
        options += ["--ca", str(ca)]
    return options


def named(options: Sequence[str], option: str) -> str:
    """What ``option`` is followed by."""
    return options[options.index(option) + 1]


def request(
    kind: str, name: str, to: str, *arguments: str, status: int = 0
) -> tuple[str, subprocess.CompletedProcess[bytes]]:
    """`lom-agent lom-request`; its standard error, and all of it."""
    done = lom_agent("lom-request", kind, name, "--to", to, *arguments)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stderr.decode(), done


def event_of(running: Running, kind: str) -> dict[str, Any]:
    """The next event of this kind; others before it are of no interest."""
    while (event := running.event())["event"] != kind:
        pass
    return event
