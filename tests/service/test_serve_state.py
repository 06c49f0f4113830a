"""`lom-agent serve --state FILE` as a process: killed and started again, refused beside itself and with other Macs."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import COMMAND, SECONDS, lom_agent

pytestmark = pytest.mark.slow

LIST = b'<plist version="1.0"><dict><key>RequestType</key><string>ProfileList</string></dict></plist>'


class Serving:
    """A running command: its ready file, and clients of the control API and of the lab."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.control = self._client(ready["control"], ready["token"])
        self.lab = self._client(ready["lab"]["url"], ready["lab"]["token"])

    def _client(self, url: str, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=url, headers=headers, verify=False, timeout=SECONDS, trust_env=False)

    def macs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control.get("/v1/macs").json()
        return found

    def close(self) -> None:
        self.control.close()
        self.lab.close()


@contextmanager
def serve(folder: Path, *arguments: str) -> Iterator[Serving]:
    """The command with the lab, until it is killed at the end."""
    file, ready = folder / "fleet.sqlite", folder / "ready.json"
    ready.unlink(missing_ok=True)
    line = [COMMAND, "serve", "--lab", "--state", str(file), "--ready-file", str(ready), *arguments]
    pause = threading.Event()
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        try:
            while not ready.exists():
                assert process.poll() is None
                pause.wait(0.02)
            serving = Serving(process, json.loads(ready.read_bytes()))
            try:
                yield serving
            finally:
                serving.close()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(SECONDS)


def test_a_killed_command_goes_on_and_answers_its_server(tmp_path: Path) -> None:
    with serve(tmp_path, "--devices", "2") as first:
        udid = first.macs()[0]["udid"]
        assert first.control.post(f"/v1/macs/{udid}/enroll", json={}).status_code == 200
        before = first.macs()
        modes = {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.rglob("*.sqlite*") if each.is_file()}
        assert modes == {0o600}
        beside = lom_agent("serve", "--state", str(tmp_path / "fleet.sqlite"))
        assert beside.returncode == 2
        assert "fleet.sqlite in use. End the lom-agent that uses it" in beside.stderr.decode()
    with serve(tmp_path) as second:
        for name in ("lab", "apns"):
            assert second.ready[name]["url"] == first.ready[name]["url"]  # the server and its Macs find them again
        assert second.ready["lab"]["token"] == first.ready["lab"]["token"]
        assert [(mac["udid"], mac["enrolled"]) for mac in second.macs()] == [
            (mac["udid"], mac["enrolled"]) for mac in before
        ]
        queued = second.lab.post(f"/api/v1/macs/{udid}/commands", content=LIST)
        uuid = queued.json()["command_uuid"]  # the lab pushes, the gateway delivers, the Mac answers
        wait = {"kind": "delivered", "command_uuid": uuid, "timeout": SECONDS}
        assert second.control.post("/v1/wait", json=wait).status_code == 200
        assert second.lab.get(f"/api/v1/macs/{udid}/commands/{uuid}").status_code == 200
    other = lom_agent("serve", "--state", str(tmp_path / "fleet.sqlite"), "--devices", "5")
    assert other.returncode == 2
    assert "Leave these options out" in other.stderr.decode()
