"""A scenario as results repeat it: whole, and without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.scenario.reading import scenario_from
from agent.scenario.writing.redacted import as_document

SECRET = "hunter2"
PHASES = [{"kind": "enroll"}, {"kind": "command"}]


def webhook(**request: Any) -> dict[str, Any]:
    return {
        "server": {
            "adapter": "webhook",
            "enroll": f"https://mdm.example/enroll?code={SECRET}&group=7",
            "webhook": {"enqueue": {"url": f"https://mdm.example/{{udid}}?key={SECRET}&udid={{udid}}", **request}},
        },
        "phase": PHASES,
    }


def shown(document: dict[str, Any]) -> dict[str, Any]:
    return as_document(scenario_from(document))


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "Cookie", "X-Auth-Token", "password", "Client-Secret"])
def test_header_values_that_may_be_secrets_are_hidden(name: str) -> None:
    document = shown(webhook(headers={name: f"Bearer {SECRET}", "Content-Type": "application/xml"}))
    assert document["server"]["webhook"]["enqueue"]["headers"] == {name: "***", "Content-Type": "application/xml"}
    assert SECRET not in json.dumps(document)


def test_templates_are_shown() -> None:
    headers = {"Authorization": "Bearer {env:MDM_TOKEN}", "Content-Type": "application/json"}
    body = '{"push_token": "{token_hex}", "api_token": "' + SECRET + '", "udid": "{udid}"}'
    enqueue = shown(webhook(headers=headers, body=body))["server"]["webhook"]["enqueue"]
    assert enqueue["headers"] == headers
    assert enqueue["body"] == '{"push_token": "{token_hex}", "api_token": "***", "udid": "{udid}"}'
    assert enqueue["url"] == "https://mdm.example/{udid}?key=***&udid={udid}"


def test_values_of_a_command_that_may_be_secrets_are_hidden() -> None:
    request = {"RequestType": "DeviceLock", "PIN": "123456", "Message": "call us", "Inner": [{"AdminPassword": SECRET}]}
    document = shown({"phase": [{"kind": "enroll"}, {"kind": "command", "request": request}]})
    assert document["phase"][1]["request"] == {
        "RequestType": "DeviceLock",
        "PIN": "***",
        "Message": "call us",
        "Inner": [{"AdminPassword": "***"}],
    }


def test_values_from_files_are_shown_as_their_file(tmp_path: Any) -> None:
    moments = tmp_path / "moments"
    moments.write_text("1\n2\n")
    phase = {"kind": "enroll", "arrivals": "replay", "replay_file": str(moments)}
    assert shown({"phase": [phase]})["phase"] == [
        {"name": "enroll", "wait": True, "share": 1.0, "timeout": 120.0, **phase}
    ]
