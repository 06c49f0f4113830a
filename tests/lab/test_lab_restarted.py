"""`lom-agent lab --out DIR` killed and restarted: it continues with the Macs of a run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import lom_agent
from forked import SECONDS, Forked

COMMAND_BODY = b"""<plist version="1.0"><dict><key>RequestType</key><string>ProfileList</string></dict></plist>"""


@contextmanager
def lab(folder: Path, *arguments: str) -> Iterator[tuple[Forked, dict[str, str]]]:
    """A lab as a process, and its output. It is killed at the end, unless the test killed it."""
    with Forked("lab", "--out", str(folder), *arguments) as running:
        printed: dict[str, str] = {}
        for text in map(bytes.decode, running.stdout):
            key, _, value = text.partition(":")
            printed[key] = value.strip()
            if text.startswith("Ctrl-C"):
                break
        yield running, printed


class API:
    """The API of a lab, with a new connection for each request."""

    def __init__(self, folder: Path, printed: dict[str, str]) -> None:
        self._context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        self._place = printed["MDM server"].removeprefix("https://")
        self._token = (folder / "token").read_text().strip()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the response."""
        connection = http.client.HTTPSConnection(self._place, timeout=SECONDS, context=self._context)
        try:
            connection.request(method, f"/api/v1/macs{path}", body, {"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def macs(self) -> list[dict[str, Any]]:
        """The Macs."""
        found: list[dict[str, Any]] = json.loads(self.ask("GET", "")[1])
        return found

    def enqueue(self, udid: str) -> str:
        """Queue a command; returns its CommandUUID."""
        status, body = self.ask("POST", f"/{udid}/commands", COMMAND_BODY)
        assert status == 201, body
        return str(json.loads(body)["command_uuid"])

    def wait_for_result(self, udid: str, command_uuid: str) -> None:
        """Wait until the Mac, which polls every second, has answered the command."""
        pause = threading.Event()
        for _ in range(int(SECONDS / 0.1)):
            status, body = self.ask("GET", f"/{udid}/commands/{command_uuid}")
            if status == 200:
                assert b"ProfileList" in body
                return
            assert status == 202, body
            pause.wait(0.1)
        raise AssertionError("the Mac has not answered")


def test_macs_continue_after_a_lab_is_killed_and_restarted(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    with lab(folder) as (first, printed):
        api = API(folder, printed)
        url = printed["Enrollment profile"]
        line = ["run", "--devices", "2", "--enroll", url, "--ca", str(folder / "ca.pem"), "--stay", "600",
                "--poll", "1", "--quiet"]  # fmt: skip
        with Forked(*line) as run:
            pause = threading.Event()
            while sum(mac["enrolled"] for mac in api.macs()) < 2:
                assert run.poll() is None
                pause.wait(0.1)
            one, two = [mac["udid"] for mac in api.macs()]
            answered = api.enqueue(one)
            api.wait_for_result(one, answered)
            os.killpg(run.pid, signal.SIGSTOP)  # what is queued now is still there after the kill
            queued = [api.enqueue(one), api.enqueue(one), api.enqueue(two)]
            before = api.macs()
            ca, token = (folder / "ca.pem").read_bytes(), (folder / "token").read_bytes()
            first.kill()
            first.wait(SECONDS)
            with lab(folder) as (_second, again):
                assert again == printed  # the same ports, too
                assert ((folder / "ca.pem").read_bytes(), (folder / "token").read_bytes()) == (ca, token)
                assert api.macs() == before
                assert api.ask("GET", f"/{one}/commands/{answered}")[0] == 200
                os.killpg(run.pid, signal.SIGCONT)
                for udid, command_uuid in zip((one, one, two), queued, strict=True):
                    api.wait_for_result(udid, command_uuid)


def test_second_lab_command_on_a_folder_is_refused(tmp_path: Path) -> None:
    with lab(tmp_path) as (first, printed):
        done = lom_agent("lab", "--out", str(tmp_path))
        assert done.returncode == 2
        assert b"a lab that is running in" in done.stderr
        assert b"Traceback" not in done.stderr
        assert API(tmp_path, printed).macs() == []
        assert first.poll() is None


def test_port_option_overrides_the_stored_port(tmp_path: Path) -> None:
    with lab(tmp_path) as (_first, printed):
        pass
    with lab(tmp_path, "--no-reenrollment") as (_second, again):
        assert again["MDM server"] == printed["MDM server"]
        taken = printed["MDM server"].rpartition(":")[2]
        with lab(tmp_path / "other", "--port", "0") as (_third, other):
            assert other["MDM server"] != printed["MDM server"]
        done = lom_agent("lab", "--out", str(tmp_path / "other"), "--port", taken)
        assert done.returncode == 2
        assert taken.encode() in done.stderr
