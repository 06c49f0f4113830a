"""MicroMDM's API as in its source, answered by a scripted server."""

from __future__ import annotations

import base64
import json
import plistlib
from typing import Any

import pytest
from conftest import RunInReactor
from opened import COMMAND, MAC, SECRET, TRUSTED, UUID, answering, enqueue, opened, push
from servers import serving

from agent.errors import OperatorError
from agent.servers.configs import MicroMDMConfig
from agent.servers.server import AnswerUnreadable, CommandRefused, LOMServer, PushNotSent, RequestFailed, StatusRefused

QUEUED = {"payload": {"udid": MAC.udid, "command_uuid": UUID, "command": {"request_type": "ProfileList"}}}
PUSHED = {"status": "success", "push_notification_id": "16C80450-B79F-E23B-F99B-0810179F244E"}


def config(url: str, **others: Any) -> MicroMDMConfig:
    """A MicroMDM whose certificate is trusted."""
    return MicroMDMConfig(url, SECRET, trust=TRUSTED, **others)


def json_body(document: object) -> bytes:
    """An answer's body."""
    return json.dumps(document, indent="  ").encode()


def test_commands_and_pushes_use_one_connection(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url)) as server:
            assert server.pushes_on_enqueue
            await enqueue(server)
            await push(server)

    with serving(answering((201, json_body(QUEUED)), (200, json_body(PUSHED)))) as micromdm:
        run_in_reactor(scenario(f"{micromdm.url}/mdm/"))
        queued, pushed = micromdm.requests
        assert micromdm.connections == 1
    assert (queued.method, queued.target) == ("POST", f"/mdm/v1/commands/{MAC.udid}")
    assert (pushed.method, pushed.target, pushed.body) == ("GET", f"/mdm/push/{MAC.udid}", b"")
    assert plistlib.loads(queued.body) == {"Command": COMMAND, "CommandUUID": UUID}
    for request in (queued, pushed):
        kind, _, credentials = request.headers["authorization"].partition(" ")
        assert (kind, base64.b64decode(credentials).decode()) == ("Basic", f"micromdm:{SECRET}")


def test_lom_commands_are_json_and_the_profile_is_a_command(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url)) as server:
            assert isinstance(server, LOMServer)
            assert not server.composes
            installed = await server.lom_profile(MAC.udid, MAC.dns_name, device=True, controller=False)
            assert installed not in ("", UUID)
            assert await server.lom_setup(MAC.udid) == UUID
            assert await server.lom_request("C0", "PowerON", [MAC.udid]) == UUID

    with serving(answering((201, json_body(QUEUED)))) as micromdm:
        run_in_reactor(scenario(micromdm.url))
        profile, setup, request = micromdm.requests
    command = plistlib.loads(profile.body)["Command"]
    payloads = plistlib.loads(command["Payload"])["PayloadContent"]
    assert (profile.target, command["RequestType"]) == (f"/v1/commands/{MAC.udid}", "InstallProfile")
    assert [each["PayloadType"] for each in payloads].count("com.apple.lom") == 1
    assert (setup.method, setup.target) == ("POST", "/v1/commands")
    assert json.loads(setup.body) == {"udid": MAC.udid, "request_type": "LOMSetupRequest"}
    document = json.loads(request.body)
    (item,) = document.pop("request_list")
    assert document == {"udid": "C0", "request_type": "LOMDeviceRequest"}
    assert len(item.pop("device_request_uuid")) == 36
    assert item == {
        "device_request_type": "PowerON",
        "device_dns_name": MAC.dns_name,
        "primary_ip_v6_address_list": list(MAC.primary_ipv6),
        "secondary_ip_v6_address_list": list(MAC.secondary_ipv6),
        "lom_protocol_version": MAC.lom_protocol_version,
    }


@pytest.mark.parametrize("document", [{}, {"payload": []}, {"payload": {"command_uuid": 3}}])
def test_a_lom_answer_without_a_command_uuid_is_unreadable(run_in_reactor: RunInReactor, document: Any) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url)) as server:
            assert isinstance(server, LOMServer)
            with pytest.raises(AnswerUnreadable, match=r"payload\.command_uuid"):
                await server.lom_setup(MAC.udid)

    with serving(answering((201, json_body(document)))) as micromdm:
        run_in_reactor(scenario(micromdm.url))


@pytest.mark.parametrize(
    ("ask", "status", "body", "error", "words"),
    [
        (enqueue, 500, json_body({"error": "plist: EOF"}), CommandRefused, "500: plist: EOF"),
        (enqueue, 201, json_body({"error": "publish"}), CommandRefused, "publish"),
        (push, 500, json_body({"error": "retrieving PushInfo by UDID"}), PushNotSent, "retrieving PushInfo"),
        (push, 200, json_body({"status": "failure"}), PushNotSent, "the push failed"),
        (enqueue, 401, json_body({"error": "Unauthorized Access"}), StatusRefused, "401.*Unauthorized Access"),
        (enqueue, 500, json_body({}), StatusRefused, "500"),
        (enqueue, 500, b"Internal Server Error\n", StatusRefused, "500: Internal Server Error"),
        (enqueue, 404, b"404 page not found\n", StatusRefused, "404 page not found"),
        (enqueue, 301, b"", StatusRefused, "301"),
        (enqueue, 201, b"<html>", AnswerUnreadable, "<html>"),
        (push, 200, json_body(["success"]), AnswerUnreadable, "JSON object"),
        (push, 200, b"[" * 100_000, AnswerUnreadable, "JSON object"),
    ],
)
def test_each_failure_has_its_error_kind(
    run_in_reactor: RunInReactor, ask: Any, status: int, body: bytes, error: type[RequestFailed], words: str
) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url)) as server, pytest.raises(error, match=words):
            await ask(server)

    with serving(answering((status, body))) as micromdm:
        run_in_reactor(scenario(micromdm.url))


@pytest.mark.parametrize("status", [201, 403, 500])
@pytest.mark.parametrize("form", ["{}", '{{"error": "{}"}}'])
def test_error_text_is_bounded_and_hides_the_key(run_in_reactor: RunInReactor, status: int, form: str) -> None:
    credentials = base64.b64encode(f"micromdm:{SECRET}".encode()).decode()
    body = form.format(f"Basic {credentials} {SECRET}" + "x" * 10_000).encode()

    async def scenario(url: str) -> None:
        with opened(config(url)) as server:
            with pytest.raises(RequestFailed) as caught:
                await enqueue(server)
            text = str(caught.value)
            assert "Basic *** ***" in text
            assert len(text) < 500

    with serving(answering((status, body))) as micromdm:
        run_in_reactor(scenario(micromdm.url))
    assert SECRET not in repr(config("https://mdm.example"))


@pytest.mark.parametrize(
    "url", ["http://mdm.example", "ftp://127.0.0.1", "https://user:password@mdm.example/", "https://mdm.example/?query"]
)
def test_invalid_configuration_is_reported_at_the_start(url: str) -> None:
    with pytest.raises(OperatorError), opened(config(url)):
        pass


def test_plain_http_is_allowed_on_loopback_or_by_option() -> None:
    for url, plain in (("http://127.0.0.1:8080", False), ("http://mdm.example", True)):
        with opened(config(url, plain=plain)):
            pass
