"""NanoMDM's API as its operations guide describes it, answered by a scripted server."""

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
from agent.servers.configs import NanoMDMConfig, Trust
from agent.servers.server import AnswerUnreadable, CommandRefused, PushNotSent, RequestFailed, StatusRefused

PUSHED = {"push_result": "16C80450-B79F-E23B-F99B-0810179F244E"}
QUEUED = {"status": {MAC.udid: PUSHED}, "command_uuid": UUID, "request_type": "ProfileList"}


def config(url: str, **others: Any) -> NanoMDMConfig:
    """A NanoMDM whose certificate is trusted."""
    return NanoMDMConfig(url, SECRET, trust=TRUSTED, **others)


def json_body(document: object) -> bytes:
    """An answer's body."""
    return json.dumps(document, indent="\t").encode()


def test_commands_and_pushes_use_one_connection(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url)) as server:
            assert server.pushes_on_enqueue
            await enqueue(server)
            await push(server)

    with serving(answering((200, json_body(QUEUED)), (200, json_body({"status": {MAC.udid: PUSHED}})))) as nanomdm:
        run_in_reactor(scenario(f"{nanomdm.url}/mdm/"))
        queued, pushed = nanomdm.requests
        assert nanomdm.connections == 1
    assert (queued.method, queued.target) == ("PUT", f"/mdm/v1/enqueue/{MAC.udid}")
    assert (pushed.method, pushed.target) == ("PUT", f"/mdm/v1/push/{MAC.udid}")
    assert plistlib.loads(queued.body) == {"Command": COMMAND, "CommandUUID": UUID}
    for request in (queued, pushed):
        kind, _, credentials = request.headers["authorization"].partition(" ")
        assert (kind, base64.b64decode(credentials).decode()) == ("Basic", f"nanomdm:{SECRET}")


def test_a_command_can_be_queued_without_a_push(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url, push=False, user="other")) as server:
            assert not server.pushes_on_enqueue
            await enqueue(server)

    with serving(answering((200, json_body({"no_push": True, "command_uuid": UUID})))) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))
        (request,) = nanomdm.requests
    assert request.target == f"/v1/enqueue/{MAC.udid}?nopush=1"
    assert base64.b64decode(request.headers["authorization"].partition(" ")[2]).startswith(b"other:")


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (500, json_body({"command_error": "decoding command: EOF"}), CommandRefused, "500: decoding command: EOF"),
        (500, json_body({"status": {MAC.udid: {"command_error": "no such id"}}}), CommandRefused, "no such id"),
        (500, json_body({"status": {MAC.udid: {"push_error": "410"}}, "command_uuid": UUID}), PushNotSent, "410"),
        (500, json_body({"push_error": "no push certificate"}), PushNotSent, "no push certificate"),
        (207, json_body({"status": {MAC.udid: {"push_error": "Unregistered"}}}), PushNotSent, "Unregistered"),
        (200, json_body({"push_error": {"unheard": "of"}}), PushNotSent, "unheard"),
        (500, json_body({}), StatusRefused, "500"),
        (500, b"Internal Server Error\n", StatusRefused, "500: Internal Server Error"),
        (401, b"", StatusRefused, "answered 401"),
        (301, b"", StatusRefused, "301"),
        (404, b"404 page not found\n", StatusRefused, "404 page not found"),
        (200, b"<html>", AnswerUnreadable, "<html>"),
        (200, json_body(["status"]), AnswerUnreadable, "JSON object"),
        (200, b"[" * 100_000, AnswerUnreadable, "JSON object"),
    ],
)
def test_each_failure_has_its_error_kind(
    run_in_reactor: RunInReactor, status: int, body: bytes, error: type[RequestFailed], words: str
) -> None:
    async def scenario(url: str) -> None:
        with opened(config(url)) as server, pytest.raises(error, match=words):
            await enqueue(server)

    with serving(answering((status, body))) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))
    assert len({each.kind for each in (AnswerUnreadable, CommandRefused, PushNotSent, StatusRefused)}) == 4


@pytest.mark.parametrize("status", [200, 403, 500])
def test_error_text_is_bounded_and_hides_the_key(run_in_reactor: RunInReactor, status: int) -> None:
    credentials = base64.b64encode(f"nanomdm:{SECRET}".encode()).decode()
    body = f"Basic {credentials}\n{SECRET}\x1b[31m".encode() + b"x" * 10_000

    async def scenario(url: str) -> None:
        with opened(config(url)) as server:
            with pytest.raises(RequestFailed) as caught:
                await enqueue(server)
            text = str(caught.value)
            assert "Basic *** ***" in text
            assert len(text) < 500
            assert text.isprintable()

    with serving(answering((status, body))) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))
    assert SECRET not in repr(config("https://mdm.example"))


@pytest.mark.parametrize(
    ("url", "others"),
    [
        ("http://mdm.example:9000", {}),
        ("ftp://127.0.0.1", {}),
        ("mdm.example", {}),
        ("https://user:password@mdm.example/", {}),
        ("https://mdm.example/?query", {}),
        ("https://mdm.example/", {"connections": 0}),
        ("https://mdm.example/", {"connections": 1_000_000}),
        ("https://mdm.example/", {"trust": Trust("no certificate")}),
    ],
)
def test_invalid_configuration_is_reported_at_the_start(url: str, others: dict[str, Any]) -> None:
    with pytest.raises(OperatorError), opened(NanoMDMConfig(url, SECRET, **others)):
        pass


def test_plain_http_is_allowed_on_loopback_or_by_option() -> None:
    for url, plain in (("http://127.0.0.1:9000", False), ("http://[::1]:9000", False), ("http://localhost", False),
                       ("http://mdm.example", True)):  # fmt: skip
        with opened(NanoMDMConfig(url, SECRET, plain=plain)):
            pass
