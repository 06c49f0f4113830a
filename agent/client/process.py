"""``lom-agent serve`` as a child process: started, awaited and ended. It makes no file that has a name."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import msgspec

from agent.client.errors import ServiceNotStarted
from agent.service.types import APNsInfo, LabInfo

READY_SECONDS = 60.0  # on a loaded machine; a start takes less than a second on an idle one
STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.5  # how often it is checked that the process still runs
_LAST_OUTPUT = 4000  # bytes
_MAX_READY = 1024 * 1024


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
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._ready, ready = os.pipe()
        command = [
            sys.executable, "-P",  # without the current folder, whose modules could have the names of ours
            "-m", "agent", "serve", "--control", "127.0.0.1:0", "--ready-file", f"/dev/fd/{ready}",
            "--until-eof", *arguments,
        ]  # fmt: skip
        try:
            # A session of its own: Ctrl-C at the terminal is for the tests, which end the service after their fixtures.
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
                command, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT, pass_fds=(ready,),
                env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            self._output.close()
            os.close(self._ready)
            raise
        finally:
            os.close(ready)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status, the negative number of the signal that ended it, or None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """The end of what it printed; empty after ``stop``."""
        if self._output.closed:
            return ""
        descriptor = self._output.fileno()
        start = max(0, os.fstat(descriptor).st_size - _LAST_OUTPUT)
        # At a place of its own: the process writes at the one that both share.
        return os.pread(descriptor, _LAST_OUTPUT, start).decode("utf-8", "replace")

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Ready:
        """Wait until everything listens. Raises ServiceNotStarted, and ends the process then."""
        deadline = time.monotonic() + seconds
        found = b""
        try:
            while True:
                left = deadline - time.monotonic()
                readable, _, _ = select.select([self._ready], [], [], max(0.0, min(_LOOK_SECONDS, left)))
                octets = os.read(self._ready, _MAX_READY) if readable else b""
                found += octets
                if octets and (ready := _ready_in(found)) is not None:
                    return ready
                if (readable and not octets) or not self.running:
                    raise ServiceNotStarted(
                        f"Expected a running service, found that it ended with status {self._process.wait()}:\n"
                        f"{self.output}"
                    )
                if left <= 0:
                    raise ServiceNotStarted(
                        f"Expected the service to be ready within {seconds:g} s, found that it is not; it printed:\n"
                        f"{self.output or 'nothing'}"
                    )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int:
        """End it and return its exit status. It is killed where it does not end within STOP_SECONDS."""
        process = self._process
        if not self._output.closed:
            os.close(self._ready)
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        process.terminate()  # a forked child of this process may hold its standard input open
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._output.close()
        return status


def _ready_in(octets: bytes) -> Ready | None:
    """What was written, or None while a part is missing."""
    try:
        return msgspec.json.decode(octets, type=Ready)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return None
