"""A run with automated enrollment and logged-in users, through its worker process, gateway and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import lom_agent

from agent.errors import OperatorError
from agent.net.mac.enrollment.device_ca import device_ca_of
from agent.pki.issuing.device_ca import read_device_ca

pytestmark = pytest.mark.slow


def test_a_run_enrolls_automatically_and_its_users_are_counted(tmp_path: Path) -> None:
    done = lom_agent(
        "run", "--devices=2", "--set=server.enrollment=ade", "--set=fleet.users=1.0", "--os=27", "--boot=constant:0.1",
        f"--out={tmp_path / 'out'}", f"--trace={tmp_path / 'trace.jsonl'}", "--quiet", "--workers=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    operations: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text())["operations"]
    assert operations["enroll"]["count"] == 2
    assert operations["enroll"]["user_channel"] == 0
    assert 2 <= operations["checkin"]["user_channel"] < operations["checkin"]["count"]
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    of_users = [line for line in lines if line.get("channel") == "user"]
    assert {line["message"] for line in of_users if line["operation"] == "checkin"} == {"TokenUpdate"}
    configured = [line for line in lines if line.get("request_type") == "DeviceConfigured"]
    assert [line["status"] for line in configured] == ["Acknowledged"] * 2


def test_commands_reach_the_users_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "users.toml").write_text(
        'name = "users"\n[fleet]\ndevices = 2\nusers = 1.0\nnetwork_users = 1.0\n[[phase]]\nkind = "enroll"\n'
        '[[phase]]\nkind = "command"\nchannel = "user"\nrequest = {RequestType = "ProfileList"}\n'
    )
    done = lom_agent(
        "run", str(tmp_path / "users.toml"), f"--trace={tmp_path / 'trace.jsonl'}", "--quiet", "--workers=1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    commands = [line for line in lines if line["operation"] == "command"]
    assert [(each["request_type"], each["status"], each["channel"]) for each in commands] == [
        ("ProfileList", "Acknowledged", "user")
    ] * 2


def test_a_new_ca_of_devices_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "device-ca.pem"
    octets = device_ca_of(str(file))
    assert (device_ca_of(str(file)), file.read_bytes()) == (octets, octets)
    assert file.stat().st_mode & 0o77 == 0
    assert read_device_ca(octets, str(file)).certificate.subject.rfc4514_string().startswith("CN=lom-agent test CA")
    file.write_bytes(b"other bytes")
    with pytest.raises(OperatorError, match="Expected a CA certificate and its key in"):
        device_ca_of(str(file))
