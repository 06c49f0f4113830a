"""``lom-agent serve`` as a child process: started, awaited and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.client.errors import ServiceNotStarted
from agent.service.types import APNsInfo, LabInfo

READY_SECONDS = 60.0  # on a loaded machine; a start takes less than a second on an idle one
STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.005
_LAST_OUTPUT = 4000  # characters


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What the service writes into its ready file."""

    control: str
    token: str
    pid: int
    lab: LabInfo | None = None
    apns: APNsInfo | None = None


class ServiceProcess:
    """A service of this process. It ends with this process, however that ends: it watches its standard input."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lom-agent-")
        folder = Path(self._folder.name)
        self._ready_file = folder / "ready.json"
        self._output = folder / "output.txt"
        self._command = [
            sys.executable, "-P",  # without the current folder, whose modules could have the names of ours
            "-m", "agent", "serve", "--control", "127.0.0.1:0", "--ready-file", str(self._ready_file),
            "--until-eof", *arguments,
        ]  # fmt: skip
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
                self._command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """The end of what it printed."""
        try:
            return self._output.read_text("utf-8", "replace")[-_LAST_OUTPUT:]
        except OSError:
            return ""

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Ready:
        """Wait until everything listens. Raises ServiceNotStarted, and ends the process then."""
        deadline = time.monotonic() + seconds
        while not self._ready_file.exists():
            if not self.running:
                status, output = self._process.returncode, self.output
                self.stop()
                raise ServiceNotStarted(
                    f"Expected a running service, found that it ended with status {status}:\n{output}"
                )
            if time.monotonic() > deadline:
                output = self.output
                self.stop()
                raise ServiceNotStarted(f"Expected the service to be ready within {seconds:g} s; it printed:\n{output}")
            time.sleep(_LOOK_SECONDS)
        return msgspec.json.decode(self._ready_file.read_bytes(), type=Ready)

    def stop(self) -> int:
        """End it and return its exit status. It is killed where it does not end within STOP_SECONDS."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        process.terminate()  # a forked child of this process may hold its standard input open
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._folder.cleanup()
        return status
