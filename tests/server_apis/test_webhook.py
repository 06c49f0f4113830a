"""Requests by template: values, escaping, and templates that are refused at the start."""

from __future__ import annotations

import base64
import json
import plistlib
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

import pytest
from conftest import RunInReactor
from hypothesis import given
from hypothesis import strategies as st
from opened import COMMAND, MAC, SECRET, TRUSTED, UUID, answering, enqueue, opened, push
from servers import serving

from agent.errors import OperatorError
from agent.servers.configs import LOMTemplates, RequestTemplate, WebhookConfig
from agent.servers.server import LOMServer, PushNotSent, StatusRefused
from agent.servers.templates import COMMAND_NAMES, MAC_NAMES, Template, command_values, mac_values

URL = "https://mdm.example/"
JSON = (("Content-Type", "application/json; charset=utf-8"),)
NAMES = MAC_NAMES + COMMAND_NAMES
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def body_of(kind: str, body: str, values: dict[str, str]) -> bytes:
    """The body of a template with this Content-Type and these values."""
    template = Template(RequestTemplate("POST", URL, (("Content-Type", kind),), body), NAMES, {}, plain=False)
    rendered = template.render({name: lambda value=value: value for name, value in values.items()})  # type: ignore[misc]
    assert rendered.body is not None
    return rendered.body


def test_both_requests_follow_their_templates(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        config = WebhookConfig(
            RequestTemplate(
                "post",
                url + "/devices/{udid}/commands?type={request_type}&key={env:API_KEY}",
                (*JSON, ("X-Key", "Token {env:API_KEY}"), ("X-Command", "{command_uuid}")),
                '{"a": {"b": []}, "plist": "{command_plist}", "base64": "{command_base64}", "to": ["{token_hex}"]}',
            ),
            RequestTemplate("GET", url + "/wake/{udid}/{token_hex}/{push_magic}"),
            TRUSTED,
        )
        with opened(config, {"API_KEY": SECRET + "&/"}) as server:
            assert not server.pushes_on_enqueue
            await enqueue(server)
            await push(server)

    with serving(answering((201, b""), (204, b""))) as anyone:
        run_in_reactor(scenario(anyone.url))
        queued, pushed = anyone.requests
    assert (queued.method, queued.target) == (
        "POST", f"/devices/{MAC.udid}/commands?type=ProfileList&key={SECRET}%26%2F",
    )  # fmt: skip
    assert queued.headers["x-key"] == f"Token {SECRET}&/"
    assert queued.headers["x-command"] == UUID
    document = json.loads(queued.body)
    whole = {"Command": COMMAND, "CommandUUID": UUID}
    assert plistlib.loads(document["plist"].encode()) == whole
    assert plistlib.loads(base64.b64decode(document["base64"])) == whole
    assert (document["a"], document["to"]) == ({"b": []}, [MAC.push_token.hex()])
    assert (pushed.method, pushed.body) == ("GET", b"")
    assert pushed.target == f"/wake/{MAC.udid}/{MAC.push_token.hex()}/{MAC.push_magic}"


@pytest.mark.parametrize(
    ("answered", "command_uuid"),
    [
        (b'{"command_uuid": "A", "push": null}', "A"),
        (b'{"CommandUUID": "B"}', "B"),
        (b'{"command_uuid": 3}', ""),
        (b'["A"]', ""),
        (b"", ""),
        (b"queued", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_lom_actions_follow_their_templates(run_in_reactor: RunInReactor, answered: bytes, command_uuid: str) -> None:
    async def scenario(url: str) -> None:
        lom = LOMTemplates(
            RequestTemplate("POST", url + "/p?{device}", JSON, '["{udid}", "{dns_name}", {device}, {controller}]'),
            RequestTemplate("PUT", url + "/s/{udid}"),
            RequestTemplate("POST", url + "/r?{devices}", JSON, '{"{action}": {devices_json}, "of": "{udid}"}'),
        )
        enqueued = RequestTemplate("PUT", url, (), "{command_plist}")
        with opened(WebhookConfig(enqueued, trust=TRUSTED, lom=lom)) as server:
            assert isinstance(server, LOMServer)
            assert await server.lom_profile(MAC.udid, 'a".test', device=True, controller=False) == command_uuid
            assert await server.lom_setup(MAC.udid) == command_uuid
            assert await server.lom_request(MAC.udid, "PowerON", ["D1", "D2"]) == command_uuid
        with opened(WebhookConfig(enqueued, trust=TRUSTED)) as server:
            assert not isinstance(server, LOMServer)

    with serving(answering((202, answered))) as anyone:
        run_in_reactor(scenario(anyone.url))
        profile, setup, request = anyone.requests
    assert (profile.target, json.loads(profile.body)) == ("/p?true", [MAC.udid, 'a".test', True, False])
    assert (setup.method, setup.target, setup.body) == ("PUT", f"/s/{MAC.udid}", b"")
    assert request.target == "/r?D1%2CD2"
    assert json.loads(request.body) == {"PowerON": ["D1", "D2"], "of": MAC.udid}


def test_a_refused_lom_action_fails(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        each = RequestTemplate("POST", url)
        with opened(WebhookConfig(each, trust=TRUSTED, lom=LOMTemplates(each, each, each))) as server:
            assert isinstance(server, LOMServer)
            with pytest.raises(StatusRefused, match="queuing a LOM command: the server answered 409: set it up"):
                await server.lom_request(MAC.udid, "Reset", [MAC.udid])

    with serving(answering((409, b"set it up first"))) as anyone:
        run_in_reactor(scenario(anyone.url))


def test_plist_body_needs_no_content_type(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        with opened(WebhookConfig(RequestTemplate("PUT", url, (), "{command_plist}"), None, TRUSTED)) as server:
            assert server.pushes_on_enqueue
            await enqueue(server)
            with pytest.raises(PushNotSent, match="the webhook has no push request"):
                await push(server)

    with serving(answering((200, b""))) as anyone:
        run_in_reactor(scenario(anyone.url))
        (request,) = anyone.requests
    assert (request.target, request.headers["content-type"]) == ("/", "application/xml")
    assert plistlib.loads(request.body)["CommandUUID"] == UUID


def test_error_text_hides_secrets(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        headers = (("Authorization", "Bearer {env:KEY}"), ("X-Other", "Basic b3BlbjpzZXNhbWU="))
        template = RequestTemplate("POST", url, headers)
        assert "b3BlbjpzZXNhbWU=" not in repr(WebhookConfig(template))
        with opened(WebhookConfig(template, None, TRUSTED), {"KEY": SECRET}) as server:
            with pytest.raises(StatusRefused) as caught:
                await enqueue(server)
            assert str(caught.value) == "queuing a command: the server answered 403: you sent *** and *** or ***"

    body = f"you sent {SECRET} and b3BlbjpzZXNhbWU= or Basic b3BlbjpzZXNhbWU=".encode()
    with serving(answering((403, body))) as anyone:
        run_in_reactor(scenario(anyone.url))


@given(TEXTS)
def test_values_are_escaped_in_json(value: str) -> None:
    body = body_of("application/json", '{"x": "{request_type}", "{udid}": 1}', {"request_type": value, "udid": value})
    assert json.loads(body) == {"x": value, value: 1}


@given(TEXTS)
def test_values_are_escaped_in_a_form(value: str) -> None:
    body = body_of("application/x-www-form-urlencoded", "a={request_type}&b=1", {"request_type": value})
    assert parse_qs(body.decode(), keep_blank_values=True) == {"a": [value], "b": ["1"]}


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn", "Co"]), max_size=30))
def test_values_are_escaped_in_xml(value: str) -> None:
    body = body_of("text/xml", '<a b="{udid}">{request_type}</a>', {"request_type": value, "udid": value})
    element = ElementTree.fromstring(body)
    assert (element.text or "", element.get("b")) == (value, value)


@given(TEXTS)
def test_values_are_escaped_in_a_url(value: str) -> None:
    template = Template(RequestTemplate("GET", URL + "a/{request_type}/b"), NAMES, {}, plain=False)
    target = template.render({"request_type": lambda: value}).target
    assert target.isascii()
    assert target.isprintable()
    assert " " not in target
    before, part, after = target.rpartition("/")[0].rpartition("/")[0], target.split("/")[2], target.split("/")[3:]
    assert (before, unquote(part), after) == ("/a", value, ["b"])


@given(TEXTS)
def test_placeholders_in_values_are_not_expanded(value: str) -> None:
    command = {"RequestType": f"{{udid}}{value}"}
    values = {**mac_values(MAC), **command_values(UUID, command)}
    template = Template(RequestTemplate("POST", URL, JSON, '["{request_type}"]'), NAMES, {}, plain=False)
    body = template.render(values).body
    assert body is not None
    assert json.loads(body) == [f"{{udid}}{value}"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "TRACE"}, "method"),
        ({"url": "https://{udid}.example/"}, "placeholders"),
        ({"url": "https://mdm.example:{env:PORT}/"}, "placeholders"),
        ({"url": "{env:URL}"}, "https://HOST/"),
        ({"url": "http://mdm.example/"}, "secrets"),
        ({"url": "https://mdm.example/a b"}, "percent-encoded"),
        ({"url": URL + "#part"}, "fragment"),
        ({"url": URL + "{serial}"}, r"\{udid\}.*found \{serial\}"),
        ({"url": URL + "{env:NOT_SET}"}, "NOT_SET"),
        ({"headers": (("X", "{nobody}"),)}, "nobody"),
        ({"headers": (("X", "{command_plist}"),)}, "command_base64"),
        ({"headers": (("X", "{env:LINES}"),)}, "characters"),
        ({"headers": (("X y", "z"),)}, "X y"),
        ({"headers": (("Host", "z"),)}, "Host"),
        ({"headers": JSON, "body": '{"x": "{UDID}"}'}, "UDID"),
        ({"body": "{udid}"}, "Content-Type"),
    ],
)
def test_invalid_template_is_reported_at_the_start(changes: dict[str, Any], words: str) -> None:
    template = RequestTemplate(**{"method": "POST", "url": URL, **changes})
    with (
        pytest.raises(OperatorError, match=words),
        opened(WebhookConfig(template), {"PORT": "1", "URL": URL, "LINES": "a\r\nb"}),
    ):
        pass


def test_command_placeholders_are_refused_in_push() -> None:
    config = WebhookConfig(RequestTemplate("POST", URL), RequestTemplate("POST", URL + "{command_uuid}"))
    with pytest.raises(OperatorError, match="command_uuid"), opened(config):
        pass
