"""The lab's API refuses commands that a Mac does not support, unless it is told to queue them unchecked."""

from __future__ import annotations

import json
import plistlib
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from lab_messages import AUTHORITIES, UDID, Client, authenticate, in_thread, listening, put, token_update

from agent.lab.web.server import LabServer

QUERIES = {"RequestType": "DeviceInformation", "Queries": ["OSVersion", "OSUpdateSettings"]}
FINE = {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]}
USER_COMMAND = {"RequestType": "TriggerEnhancedLogCollection", "AppleCareToken": "test-token-normal"}


@pytest.mark.parametrize(
    ("version", "command", "query", "status"),
    [
        ("27.0", {"RequestType": "ScheduleOSUpdate"}, "", 409),
        ("27.0", {"RequestType": "ScheduleOSUpdate"}, "?unchecked=1", 201),
        ("27.0", {"RequestType": "ScheduleOSUpdate"}, "?unchecked=0", 409),
        ("26.4", {"RequestType": "ScheduleOSUpdate"}, "", 201),
        ("28.1", QUERIES, "", 409),
        ("27.0", QUERIES, "?push=0&unchecked=1", 201),
        ("26.4", QUERIES, "", 201),
        ("27.0", FINE, "", 201),
        ("26.4", USER_COMMAND, "", 409),
        ("27.0", USER_COMMAND, "?unchecked=1", 201),
        ("an unknown one", {"RequestType": "ScheduleOSUpdate"}, "", 201),
    ],
)
def test_api_refuses_what_the_mac_does_not_support(
    run_in_reactor: RunInReactor, tmp_path: Path, version: str, command: dict[str, Any], query: str, status: int
) -> None:
    def ask(server: LabServer, client: Client) -> tuple[int, bytes]:
        identity = AUTHORITIES.mdm_identity()
        server.lab.check_in(put(identity, {**authenticate(), "OSVersion": version}))
        server.lab.check_in(put(identity, token_update()))
        token = ("Authorization", f"Bearer {server.token}")
        return client.ask("POST", f"/api/v1/macs/{UDID}/commands{query}", plistlib.dumps(command), token)

    async def scenario() -> tuple[int, bytes, list[str]]:
        async with listening() as server:
            client = Client(server, tmp_path, None)
            try:
                answered, body = await in_thread(lambda: ask(server, client))
            finally:
                client.close()
            return answered, body, [each.request_type for each in server.lab.macs[UDID].queue.values()]

    answered, body, queued = run_in_reactor(scenario())
    assert answered == status
    assert queued == ([command["RequestType"]] if status == 201 else [])
    if status == 409:
        assert "?unchecked=1" in json.loads(body)["error"]
