"""``lom-agent serve`` as a process, controlled over HTTP."""

from __future__ import annotations

import json
import os
import plistlib
import signal
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import COMMAND, SECONDS, lom_agent, lom_agent_here
from forked import Forked

pytestmark = pytest.mark.slow


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[dict[str, Any], Forked]]:
    """The content of the ready file, and the process."""
    with Forked("serve", "--ready-file", str(folder / "ready.json"), *arguments) as process:
        yield when_ready(folder, process), process


@contextmanager
def serving_installed(folder: Path, *arguments: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[bytes]]]:
    """The same of the installed command."""
    process = subprocess.Popen(
        [COMMAND, "serve", "--ready-file", str(folder / "ready.json"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield when_ready(folder, process), process
    finally:
        process.kill()
        process.communicate()


def when_ready(folder: Path, process: Forked | subprocess.Popen[bytes]) -> dict[str, Any]:
    """The content of the ready file, once it is there."""
    file, ends = folder / "ready.json", time.monotonic() + SECONDS
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def client_of(ready: dict[str, Any]) -> httpx.Client:
    """A client with the token."""
    headers = {"Authorization": f"Bearer {ready['token']}"}
    return httpx.Client(base_url=ready["control"], headers=headers, timeout=SECONDS, trust_env=False)


def test_macs_enroll_in_the_lab_and_are_pushed_to(tmp_path: Path) -> None:
    arguments = ("--lab", "--devices", "2", "--os", "26.4", "--clock", "manual", "--boot", "constant:30")
    with serving_installed(tmp_path, *arguments) as (ready, process), client_of(ready) as control:
        assert (ready["macs"], ready["clock"], ready["pid"]) == (2, "manual", process.pid)
        assert stat.S_IMODE(os.stat(tmp_path / "ready.json").st_mode) == 0o600
        mac = control.post("/v1/macs/0/enroll", json={}).raise_for_status().json()
        assert (mac["enrolled"], mac["os_version"]) == (True, "26.4")
        lab = httpx.Client(
            base_url=ready["lab"]["url"],
            headers={"Authorization": f"Bearer {ready['lab']['token']}"},
            verify=ssl.create_default_context(cadata=ready["lab"]["ca"]),
            trust_env=False,
        )
        with lab:
            command = plistlib.dumps({"RequestType": "ProfileList"})
            queued = lab.post(f"/api/v1/macs/{mac['udid']}/commands", content=command)  # the lab pushes, too
            uuid = queued.raise_for_status().json()["command_uuid"]
        wanted = {"kind": "delivered", "command_uuid": uuid, "timeout": 60}
        assert control.post("/v1/wait", json=wanted).raise_for_status().json()["status"] == "Acknowledged"
        control.post("/v1/macs/0/power", json={"action": "reset"}).raise_for_status()
        assert control.get("/v1/clock").json()["next"] == 30.0
        control.post("/v1/clock", json={"advance": 30}).raise_for_status()
        assert control.get("/v1/macs/0").json()["boots"] == 1
        assert "lom_agent_macs" in control.get("/metrics").text


def test_the_macs_of_the_start_enroll_with_the_profile_of_enroll(tmp_path: Path) -> None:
    with serving(tmp_path, "--lab") as (lab, _):
        (tmp_path / "lab.pem").write_text(lab["lab"]["ca"])
        other = tmp_path / "other"
        other.mkdir()
        enroll = ("--devices", "2", "--enroll", lab["lab"]["enroll_url"], "--ca", str(tmp_path / "lab.pem"))
        with serving(other, *enroll, "--seed", "others") as (ready, _), client_of(ready) as control:
            for number in range(2):
                wanted = {"enrolled": True, "timeout": 60}
                control.post(f"/v1/macs/{number}/wait", json=wanted).raise_for_status()
            assert (ready["lab"], ready["apns"]) == (None, None)


@pytest.mark.parametrize(
    ("start", "number", "status"),
    [(serving_installed, signal.SIGINT, 130), (serving, signal.SIGTERM, 143), (serving, signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_ends_it_and_leaves_nothing(tmp_path: Path, start: Any, number: int, status: int) -> None:
    with start(tmp_path, "--lab", "--devices", "3") as (ready, process):
        with client_of(ready) as control:
            control.post("/v1/macs/0/enroll", json={}).raise_for_status()
        process.send_signal(number)
        output, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, errors) == (status, b"")
        assert f"Control API:  {ready['control']}\n".encode() in output
        for token in (ready["token"], ready["lab"]["token"]):  # the ready file has them
            assert token.encode() not in output
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(ready["control"], trust_env=False)


def test_the_token_file_is_made_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for _ in range(2):
        with serving(tmp_path, "--token-file", str(file)) as (ready, _), client_of(ready) as control:
            assert control.get("/v1").raise_for_status().json()["macs"] == 0
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert file.read_text() == f"{ready['token']}\n"
            assert httpx.get(f"{ready['control']}/v1", trust_env=False).status_code == 401
        (tmp_path / "ready.json").unlink()  # the process was killed
    file.write_text("two words")
    done = lom_agent("serve", "--token-file", str(file))
    assert (done.returncode, b"Delete the file" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--lab-identity", "scep"), "--lab-identity goes with --lab"),
        (("--network-users", "0.5"), "it goes with --users"),
        (("--apns-listen", "127.0.0.1:0"), "--apns-listen goes with --apns or --lab"),
        (("--os", "26.4"), "--os is for the Macs of --devices"),
        (("--segment-size", "2"), "--segment-size is for the Macs of --devices"),
        (("--control", "nonsense"), "--control"),
        (("--boot", "long"), "expected constant:SECONDS"),
        (("--lom-network", "carrier"), "as the LOM network, found"),
        (("--enroll", "missing.mobileconfig"), "the enrollment profile"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_listens(arguments: tuple[str, ...], says: str) -> None:
    done = lom_agent_here("serve", *arguments)
    assert done.returncode == 2
    assert says in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--devices", "3", "--os", "26.9"), "Choose one of 26.0"),
        (("--lab", "--lab-identity", "acme", "--devices", "3", "--os", "13"), "from macOS 14 on, found 13.6"),
        (("--control", "192.0.2.1:80"), "192.0.2.1"),
    ],
)
def test_what_cannot_start_ends_with_the_reason(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = lom_agent("serve", "--ready-file", str(tmp_path / "ready.json"), *arguments)
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []
