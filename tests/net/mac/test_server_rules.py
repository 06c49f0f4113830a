"""A Mac's session with servers that redirect, ask it to wait, end its enrollment, or show another certificate."""

from __future__ import annotations

import plistlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from servers import AUTHORITY, IDENTITY, Script, Talk, TLSServer, answer, serving, until
from stack import Stack

from agent.mdm.access_rights import ALL_RIGHTS
from agent.mdm.checkin import USER_AGENT, user_agent
from agent.mdm.timing import Timing
from agent.net.http.fetch import retry_after
from agent.net.http.http1 import Response
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.pki.cms import mdm_signature_signer
from agent.pki.issuing.authority import CLIENT_USAGE
from agent.profiles.enrollment import Enrollment

MAC_IDENTITY = AUTHORITY.issue("a Mac", CLIENT_USAGE)
PROFILE_LIST = plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": "ProfileList"}})
FAST = FleetBehaviour(timing=Timing(retry_first=0.02, retry_longest=0.05))


def replies(*answers: bytes) -> Script:
    """Answer request after request with these, over as many connections as the Mac opens; then close."""
    waiting = list(answers)

    def script(talk: Talk) -> None:
        while waiting:
            talk.read_request()
            talk.send(waiting.pop(0))
        talk.wait_for_end()

    return script


@asynccontextmanager
async def enrolled(
    server: TLSServer, behaviour: FleetBehaviour = FAST, **keys: Any
) -> AsyncIterator[tuple[Stack, MDMClient]]:
    """A Mac that is enrolled in a scripted server, without the lab."""
    running = Stack(1, behaviour=behaviour)
    client = running.fleet[0]
    enrollment = Enrollment(
        server_url=f"{server.url}/mdm",
        check_in_url=f"{server.url}/checkin",
        topic="com.apple.mgmt.External.test",
        access_rights=ALL_RIGHTS,
        identity=MAC_IDENTITY,
        anchors=(AUTHORITY.certificate,),
    )
    client.device.enrollment = replace(enrollment, **keys)
    try:
        yield running, client
    finally:
        running.fleet.close()


def sessions(running: Stack) -> list[str]:
    """How each session ended: "good", or the kind of its failure."""
    ended = [exchange for exchange in running.exchanges if exchange.operation == "session"]
    return ["good" if exchange.failure is None else exchange.failure.kind for exchange in ended]


def test_a_report_has_the_headers_of_mdmclient(run_in_reactor: RunInReactor) -> None:
    with serving(replies(answer(200, PROFILE_LIST), answer())) as server:

        async def scenario() -> None:
            async with enrolled(server, sign_message=True) as (running, client):
                client.device.mac = client.device.mac.with_release("27.0", "26A428")
                client.wake()
                await until(lambda: sessions(running) == ["good"])

        run_in_reactor(scenario())
    idle, result = server.requests
    assert idle.connection == result.connection
    for request in (idle, result):
        assert (request.method, request.target) == ("PUT", "/mdm")
        assert request.headers["user-agent"] == user_agent("27.0") != USER_AGENT
        assert request.headers["content-type"] == "application/x-apple-aspen-mdm"
        assert request.certificate == MAC_IDENTITY.certificate
        assert mdm_signature_signer(request.headers["mdm-signature"], request.body) == MAC_IDENTITY.certificate
    assert plistlib.loads(idle.body)["Status"] == "Idle"
    assert plistlib.loads(result.body)["CommandUUID"] == "one"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_followed_with_the_same_report_and_not_remembered(
    run_in_reactor: RunInReactor, status: int
) -> None:
    moved = answer(status, b"", "Location: /elsewhere/mdm")
    with serving(replies(moved, answer(), moved, answer())) as server:

        async def scenario() -> None:
            async with enrolled(server) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["good"])
                client.wake()
                await until(lambda: sessions(running) == ["good", "good"])

        run_in_reactor(scenario())
    assert [request.target for request in server.requests] == ["/mdm", "/elsewhere/mdm"] * 2
    assert len({request.body for request in server.requests}) == 1


def test_a_redirect_to_another_server_presents_the_identity_there(run_in_reactor: RunInReactor) -> None:
    with serving(replies(answer())) as other:
        moved = answer(307, b"", f"Location: {other.url}/mdm")
        with serving(replies(moved)) as server:

            async def scenario() -> None:
                async with enrolled(server) as (running, client):
                    client.wake()
                    await until(lambda: sessions(running) == ["good"])

            run_in_reactor(scenario())
    assert other.requests[0].certificate == MAC_IDENTITY.certificate


@pytest.mark.parametrize("location", ["http://127.0.0.1/mdm", "https://", "", "https://[bad/"])
def test_a_redirect_away_from_tls_or_to_nowhere_ends_the_session(run_in_reactor: RunInReactor, location: str) -> None:
    moved = answer(302, b"", f"Location: {location}" if location else "X: y")
    with serving(replies(moved, moved, moved, moved, moved, moved, answer())) as server:

        async def scenario() -> None:
            async with enrolled(server, USUAL) as (running, client):
                client.wake()
                await until(lambda: len(sessions(running)) > 0)
                assert sessions(running) == ["redirect"]

        run_in_reactor(scenario())


USUAL = FleetBehaviour()


def test_a_circle_of_redirects_ends(run_in_reactor: RunInReactor) -> None:
    def circle(talk: Talk) -> None:
        while True:
            talk.read_request()
            talk.send(answer(301, b"", "Location: /mdm"))

    with serving(circle) as server:

        async def scenario() -> None:
            async with enrolled(server, USUAL) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["redirect"])

        run_in_reactor(scenario())
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_is_down_for_a_moment_gets_the_result_later(run_in_reactor: RunInReactor, status: int) -> None:
    script = replies(answer(200, PROFILE_LIST), answer(status), answer(status), answer())
    with serving(script) as server:

        async def scenario() -> None:
            async with enrolled(server) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["http_status", "http_status", "good"])

        run_in_reactor(scenario())
    bodies = [plistlib.loads(request.body) for request in server.requests]
    assert [body["Status"] for body in bodies] == ["Idle", "Acknowledged", "Acknowledged", "Acknowledged"]
    assert bodies[1] == bodies[2] == bodies[3]


def test_command_without_an_identifier_is_dropped_with_a_warning(run_in_reactor: RunInReactor) -> None:
    nameless = plistlib.dumps({"Command": {"RequestType": "ProfileList"}})
    with serving(replies(answer(200, nameless), answer(200, nameless), answer())) as server:

        async def scenario() -> None:
            async with enrolled(server, USUAL) as (running, client):
                for ended in (1, 2, 3):
                    client.wake()
                    await until(lambda: len(sessions(running)) == ended)  # noqa: B023
                assert sessions(running) == ["command_dropped", "command_dropped", "good"]
                (line,) = running.warnings  # one warning
                assert "CommandUUID" in line
                assert "dropped" in line

        run_in_reactor(scenario())


def test_an_answer_of_white_space_ends_the_session(run_in_reactor: RunInReactor) -> None:
    with serving(replies(answer(200, b"\r\n", "Content-Type: text/html"))) as server:

        async def scenario() -> None:
            async with enrolled(server) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["good"])
                assert client.device.session.deadline is None

        run_in_reactor(scenario())


def test_retry_after_takes_the_place_of_the_back_off(run_in_reactor: RunInReactor) -> None:
    with serving(replies(answer(503, b"", "Retry-After: 1800"))) as server:

        async def scenario() -> None:
            async with enrolled(server) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["http_status"])
                deadline = client.device.session.deadline
                assert deadline is not None
                assert 1700 < deadline - running.environment.reactor.seconds() <= 1800

        run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("1e3", None),
        ("٣", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after(Response(503, {"retry-after": value}, b"", True), now=100.0) == seconds


_DATE_PARTS = (
    "Thu,",
    "Thu",
    "01",
    "Jan",
    "1970",
    "00:02:00",
    "00.02",
    "GMT",
    "+2400",
    "-0000",
    "9" * 4400,
    "1e9",
    ",",
    "-",
)


@given(st.text(max_size=30) | st.lists(st.sampled_from(_DATE_PARTS), max_size=8).map(" ".join))
def test_any_retry_after_is_a_wait_or_none(value: str) -> None:
    seconds = retry_after(Response(503, {"retry-after": value}, b"", True), now=100.0)
    assert seconds is None or seconds >= 0.0


@pytest.mark.parametrize(
    ("status", "content_type", "body", "leaves"),
    [
        (401, "text/plain", b"", True),
        (403, "application/json", b'{"code": "com.apple.unrecognized.device"}', True),
        (403, "application/xml", plistlib.dumps({"code": "com.apple.unrecognized.device"}), True),
        (403, "application/json", b'{"code": "com.apple.other"}', False),
        (403, "text/html", b"<html>Forbidden</html>", False),
        (404, "text/plain", b"", False),
        (400, "text/plain", b"", False),
    ],
)
def test_which_answers_end_the_enrollment(
    run_in_reactor: RunInReactor, status: int, content_type: str, body: bytes, leaves: bool
) -> None:
    with serving(replies(answer(status, body, f"Content-Type: {content_type}"))) as server:

        async def scenario() -> None:
            async with enrolled(server, USUAL) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["http_status"])
                assert (client.device.enrollment is None) == leaves
                assert running.failures("enroll") == (["unenrolled"] if leaves else [])

        run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("pins", "ending"),
    [
        ((AUTHORITY.certificate,), "good"),
        ((IDENTITY.certificate,), "good"),
        ((MAC_IDENTITY.certificate, IDENTITY.certificate), "good"),
        ((MAC_IDENTITY.certificate,), "tls_not_pinned"),
    ],
)
def test_a_server_must_show_what_the_profile_pins(
    run_in_reactor: RunInReactor, pins: tuple[x509.Certificate, ...], ending: str
) -> None:
    with serving(replies(answer())) as server:

        async def scenario() -> None:
            async with enrolled(server, USUAL, server_pins=pins) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == [ending])

        run_in_reactor(scenario())


def test_a_connection_that_breaks_after_a_result_delivers_it_again(run_in_reactor: RunInReactor) -> None:
    def breaks(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200, PROFILE_LIST))
        talk.read_request()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        talk.reset()

    with serving(breaks, replies(answer())) as server:

        async def scenario() -> None:
            async with enrolled(server) as (running, client):
                client.wake()
                await until(lambda: sessions(running) == ["broken", "good"])
                commands = [exchange for exchange in running.exchanges if exchange.operation == "command"]
                assert len(commands) == 1  # delivered twice on the wire, done once

        run_in_reactor(scenario())
    assert server.requests[1].body == server.requests[2].body
