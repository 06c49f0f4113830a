"""The gateway to clients that are none of ours: curl, httpx, h2load; and to peers that break the rules."""

from __future__ import annotations

import contextlib
import json
import ssl
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest
from apns_gateways import (
    AUTHORITY,
    HOST,
    POPULATION,
    TOPIC,
    Peer,
    RunningGateway,
    in_thread,
    provider_identity,
    push_rule,
    run,
    running_gateway,
)
from conftest import RunInReactor
from debian import need
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from odd_certificates import UNREADABLE, odd_identity

from agent.faults.rules import Rule
from agent.net.apns.connection import GatewayLimits
from agent.pki.issuing.authority import Authority
from agent.push.broker import Presence
from agent.push.requests import Provider

ID = "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D"
STATUS = ("--write-out", "\n%{http_code} %{http_version}")


def curl_answer(output: str) -> tuple[str, str, str]:
    """Body, status and HTTP version."""
    body, _, last = output.rpartition("\n")
    status, version = last.split()
    return body, status, version


# curl


def test_push_from_curl_reaches_the_mac(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    need("curl", "curl")

    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            port = running.gateway.port
            output = await running.curl(
                "--include", "--data", running.payload(3), "--header", f"apns-topic: {TOPIC}",
                "--header", "apns-push-type: mdm", "--header", f"apns-id: {ID}", "--header", "apns-priority: 10",
                "--connect-to", f"api.push.apple.com:443:{HOST}:{port}",
                running.url(3, "api.push.apple.com").replace(f":{port}", ""),
            )  # fmt: skip
            assert output.startswith("HTTP/2 200")
            assert f"apns-id: {ID}" in output
            (notification,) = running.reached
            assert (notification.index, notification.topic) == (3, TOPIC)
            assert notification.push_magic == POPULATION[3].push_magic
            assert running.counts["delivered"] == 1

    run_in_reactor(scenario())


def test_curl_receives_refusals_in_apns_form(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    need("curl", "curl")

    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            running.macs.standing[1] = Presence.LEFT
            url, data = running.url(), ("--data", running.payload())
            (tmp_path / "large").write_bytes(b"x" * 70_000)
            for arguments, status, expected in (
                (["--request", "GET", url], "405", {"reason": "MethodNotAllowed"}),
                ([*data, url[:-1]], "400", {"reason": "BadDeviceToken"}),
                ([*data, running.url(1)], "410", {"reason": "Unregistered", "timestamp": 1_700_000_000_000}),
                ([*data, "--header", "apns-topic: a.b", url], "400", {"reason": "TopicDisallowed"}),
                ([*data, "--header", "authorization: bearer x.y.z", url], "403", {"reason": "InvalidProviderToken"}),
                (["--data-binary", f"@{tmp_path / 'large'}", url], "413", {"reason": "PayloadTooLarge"}),
            ):
                body, code, version = curl_answer(await running.curl(*STATUS, *arguments))
                assert (code, version, json.loads(body)) == (status, "2", expected)
            assert running.reached == []
            assert sum(running.counts["refused"].values()) == 6

    run_in_reactor(scenario())


def test_certificate_is_checked_with_each_request(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    need("curl", "curl")
    other_ca, now = Authority.create("Someone else"), datetime.now(UTC)
    identities = {
        "other_ca": provider_identity(authority=other_ca),
        "app": provider_identity("com.example.app"),
        "nameless": provider_identity(None),
        "other": provider_identity(TOPIC + "2"),
        "expired": provider_identity(not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)),
    }

    async def reasons(anchored: bool) -> dict[str | None, str]:
        anchors = (AUTHORITY.certificate,) if anchored else ()
        async with running_gateway(tmp_path, provider_anchors=anchors) as running:
            found = {}
            for name in (None, "provider", *identities):
                if name in identities:
                    running.write(name, identities[name])
                output = await running.curl("--data", running.payload(), running.url(), provider=name)
                found[name] = json.loads(output)["reason"] if output else ""
            return found

    taken_at_its_word = run_in_reactor(reasons(anchored=False))
    assert taken_at_its_word == {
        None: "MissingProviderToken", "provider": "", "other_ca": "", "app": "Forbidden", "nameless": "BadCertificate",
        "other": "DeviceTokenNotForTopic", "expired": "BadCertificate",
    }  # fmt: skip
    assert run_in_reactor(reasons(anchored=True)) == {**taken_at_its_word, "other_ca": "BadCertificate"}


# httpx


def test_httpx_pushes_to_many_macs_over_one_connection(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def push_all() -> list[httpx.Response]:
                context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
                context.load_cert_chain(tmp_path / "provider.pem", tmp_path / "provider.key")
                with httpx.Client(http1=False, http2=True, verify=context, timeout=20) as client:
                    return [client.post(running.url(index), content=running.payload(index)) for index in range(10)]

            answers = await in_thread(push_all)
            assert {(answer.status_code, answer.http_version, answer.content) for answer in answers} == {
                (200, "HTTP/2", b"")
            }
            assert len({uuid.UUID(answer.headers["apns-id"]) for answer in answers}) == 10
            assert sorted(notification.index for notification in running.reached) == list(range(10))

    run_in_reactor(scenario())


def test_push_with_a_wrong_pushmagic_is_ignored_by_the_mac(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            assert await running.curl("--data", '{"mdm":"nobody"}', running.url()) == ""
            assert [notification.push_magic for notification in running.reached] == ["nobody"]
            assert (running.counts["delivered"], running.counts["ignored"]) == (0, 1)

    need("curl", "curl")
    run_in_reactor(scenario())


# h2load


def test_one_connection_carries_a_thousand_concurrent_streams(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def push() -> None:
                peer = Peer(running)
                peer.start()
                (first,) = peer.until(h2.events.RemoteSettingsChanged)
                stated = {code: changed.new_value for code, changed in first.changed_settings.items()}
                assert stated[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] == 1000
                assert stated[h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE] == 8000
                streams = [peer.request(number % 10, ended=False) for number in range(1000)]
                peer.flush()  # a thousand requests are open, none is whole
                for stream_id in streams:
                    peer.h2.end_stream(stream_id)
                peer.flush()
                peer.until(h2.events.StreamEnded, 1000)
                assert peer.statuses() == dict.fromkeys(streams, "200")
                peer.socket.close()

            await in_thread(push)
            assert len(running.reached) == 1000

    run_in_reactor(scenario())


def test_h2load_with_a_thousand_streams_loses_no_answer(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    need("h2load", "nghttp2-client")

    async def scenario() -> None:
        # h2load can show no client certificate
        async with running_gateway(tmp_path, anonymous=Provider(TOPIC, certified=True)) as running:
            (tmp_path / "body").write_text(running.payload())
            output, errors, status = await run(
                "h2load", "--clients=1", "--max-concurrent-streams=1000", "--requests=1200",
                f"--data={tmp_path / 'body'}", running.url(),
            )  # fmt: skip
            assert status == 0, errors
            assert "1200 total, 1200 started, 1200 done, 1200 succeeded, 0 failed, 0 errored, 0 timeout" in output
            assert (running.counts["accepted"], running.counts["delivered"]) == (1200, 1200)

    run_in_reactor(scenario())


# Ends of a connection


def test_shutdown_sends_goaway_with_the_last_stream(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def begin() -> Peer:
                peer = Peer(running)
                peer.start()
                assert (peer.request(0), peer.request(1)) == (1, 3)
                peer.request(2, ended=False)
                peer.flush()
                peer.until(h2.events.StreamEnded, 2)
                return peer

            def end(peer: Peer) -> None:
                (goaway,) = peer.until(h2.events.ConnectionTerminated)
                assert (goaway.error_code, goaway.last_stream_id) == (0, 5)
                assert json.loads(goaway.additional_data) == {"reason": "Shutdown"}
                assert peer.statuses() == {1: "200", 3: "200", 5: "503"}  # the third request was not whole
                peer.socket.close()

            peer = await in_thread(begin)
            closed = running.gateway.close()
            await in_thread(end, peer)
            await closed
            assert running.counts["refused"] == {}
            assert running.counts["own"]["shutdown"] == 1

    run_in_reactor(scenario())


@pytest.mark.parametrize("rule", [push_rule("drop", times=1), push_rule("away", until=0.2)], ids=["drop", "away"])
def test_break_rule_closes_the_connection_and_the_next_one_works(
    run_in_reactor: RunInReactor, tmp_path: Path, rule: Rule
) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path, rules=[rule]) as running:

            def push() -> list[str]:
                for _ in range(10_000):
                    try:
                        peer = Peer(running)
                        peer.start()
                        peer.request()
                        peer.flush()
                        peer.until(h2.events.StreamEnded)
                    except OSError:
                        broken.append(1)
                        continue
                    peer.socket.close()
                    if peer.statuses():
                        return list(peer.statuses().values())
                    broken.append(1)
                return []

            broken: list[int] = []
            assert await in_thread(push) == ["200"]
            if rule.do == "drop":
                assert (broken, running.counts["broken"]) == ([1], 1)
            assert len(running.reached) >= 1
            assert [(each.matches > 0, each.hits) for each in running.faults] == [(True, 1)]

    run_in_reactor(scenario())


# Peers that break the rules

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def ended_by(running: RunningGateway, octets: bytes) -> bytes:
    """The gateway's answer to these bytes before it ends the connection."""
    peer = Peer(running)
    text = b""
    try:
        peer.socket.sendall(octets)
        while received := peer.socket.recv(65536):
            text += received
    except OSError:
        pass
    peer.socket.close()
    return text


@pytest.mark.parametrize(
    "octets",
    [
        PREFACE + b"\x00\x00\x00\x00\x00\x00\x00\x00\x01",  # DATA before any SETTINGS, on a stream that is idle
        PREFACE + b"\xff\xff\xff\x04\x00\x00\x00\x00\x00",  # a frame of 16 MiB
        PREFACE + b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04\xff\xff\xff\xff",  # a window past 2 ** 31
        PREFACE
        + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        + b"\x00\x00\x03\x01\x05\x00\x00\x00\x01\xff\xff\xff",  # HPACK
        PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + b"\x00" * 4,
    ],
)
def test_malformed_frames_close_the_connection_with_goaway(
    run_in_reactor: RunInReactor, tmp_path: Path, octets: bytes
) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=GatewayLimits(linger=0.1)) as running:
            text = await in_thread(ended_by, running, octets)
            assert b"\x07\x00\x00\x00\x00\x00" in text  # GOAWAY on stream 0
            assert await in_thread(still_serves, running)

    run_in_reactor(scenario())


def still_serves(running: RunningGateway) -> bool:
    """Whether another connection, of a peer that may be slow, is served."""
    running.use_default_limits()
    peer = Peer(running)
    peer.start()
    stream_id = peer.request()
    peer.flush()
    peer.until(h2.events.StreamEnded)
    peer.socket.close()
    return peer.statuses() == {stream_id: "200"}


def test_gateway_serves_after_any_bytes(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(
            tmp_path, limits=GatewayLimits(linger=0.01, request=0.05, look=0.02, idle=0.05)
        ) as running:

            @examples(25)
            @given(
                st.booleans(),
                st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40))),
            )
            def feed(preface: bool, frames: list[tuple[int, int, int, bytes]]) -> None:
                octets = PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" if preface else b""
                for kind, flags, stream, body in frames:
                    octets += len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body
                ended_by(running, octets)

            await in_thread(feed)
            assert await in_thread(still_serves, running)

    run_in_reactor(scenario())


def test_headers_above_the_limit_close_the_connection(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def push() -> None:
                peer = Peer(running)
                peer.start()
                peer.request(**{"x-large": "x" * 8000})
                peer.flush()
                assert [event.error_code for event in peer.until(h2.events.ConnectionTerminated)] == [11]  # calm
                assert peer.statuses() == {}
                peer.socket.close()

            await in_thread(push)
            assert running.reached == []

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    "field",
    [("X-Upper", "x"), ("connection", "close"), (":path", "/3/device/"), (":unknown", "x"), ("a b", "x"), ("", "x")],
)
def test_malformed_headers_are_refused(run_in_reactor: RunInReactor, tmp_path: Path, field: tuple[str, str]) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def push() -> None:
                peer = Peer(running)
                peer.h2.config.validate_outbound_headers = False
                peer.h2.config.normalize_outbound_headers = False
                peer.start()
                peer.request(**dict([field]))
                peer.flush()
                assert [event.error_code for event in peer.until(h2.events.ConnectionTerminated)] == [1]
                assert peer.statuses() == {}
                peer.socket.close()

            await in_thread(push)
            assert running.counts["accepted"] == 0

    run_in_reactor(scenario())


def test_an_answer_waits_for_the_providers_flow_control(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def push() -> None:
                peer = Peer(running)
                peer.start(INITIAL_WINDOW_SIZE=3)
                peer.request(**{"apns-priority": "9"})
                peer.flush()
                peer.until(h2.events.DataReceived)
                peer.h2.increment_flow_control_window(1000, 1)
                peer.flush()
                peer.until(h2.events.StreamEnded)
                body = b"".join(event.data for event in peer.events if isinstance(event, h2.events.DataReceived))
                assert json.loads(body) == {"reason": "BadPriority"}
                peer.socket.close()

            await in_thread(push)

    run_in_reactor(scenario())


@pytest.mark.parametrize("kind", ["reads nothing", "never ends its request", "takes no body", "says nothing", "resets"])
def test_slow_peer_is_disconnected(run_in_reactor: RunInReactor, tmp_path: Path, kind: str) -> None:
    limits = GatewayLimits(request=0.2, idle=0.2, look=0.05, linger=0.1, unsent=16_384, resets=20)

    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=limits) as running:

            def push() -> bool:
                peer = Peer(running)
                peer.start(**({"INITIAL_WINDOW_SIZE": 0} if kind == "takes no body" else {}))
                if kind == "never ends its request":
                    peer.request(ended=False)
                elif kind == "takes no body":
                    peer.request(**{"apns-priority": "9"})
                elif kind == "resets":
                    for _ in range(30):
                        peer.h2.reset_stream(peer.request(ended=False))
                try:
                    peer.flush()
                    if kind == "reads nothing":
                        while True:  # until the gateway, whose answers pile up, has dropped us
                            peer.h2.ping(b"12345678")
                            peer.flush()
                    while not peer.ended:
                        peer.read()
                except OSError:
                    pass
                peer.socket.close()
                return True  # it came to an end

            assert await in_thread(push)
            assert await in_thread(still_serves, running)

    run_in_reactor(scenario())


def test_peer_without_alpn_h2_is_refused(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def ask() -> bytes:
                peer = Peer(running, alpn="http/1.1")
                text = peer.socket.recv(100)
                peer.socket.close()
                return text

            assert await in_thread(ask) == b""

    run_in_reactor(scenario())


# Certificates that only OpenSSL reads


@pytest.mark.parametrize("fault", ["version 4", "x400Address", "subject of an empty set", "year 0"])
def test_unreadable_provider_certificate_is_refused_and_others_continue(
    run_in_reactor: RunInReactor, tmp_path: Path, fault: str
) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            good = await in_thread(Peer, running)
            odd = odd_identity(provider_identity(), AUTHORITY.identity.key, UNREADABLE[fault])
            running.write("odd", odd)

            def push_as_the_odd_one() -> dict[int, str]:
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    peer = Peer(running, provider="odd")  # TLS 1.3: the client hears of its refusal when it reads
                    with contextlib.closing(peer.socket):
                        peer.start()
                        peer.request()
                        peer.flush()
                        peer.until(h2.events.ResponseReceived)
                        return peer.statuses()
                return {}

            assert await in_thread(push_as_the_odd_one) == {}
            assert running.reached == []

            def push_as_the_good_one() -> dict[int, str]:
                good.start()
                good.request(**{"apns-topic": TOPIC, "apns-push-type": "mdm"})
                good.flush()
                good.until(h2.events.ResponseReceived)
                good.socket.close()
                return good.statuses()

            assert await in_thread(push_as_the_good_one) == {1: "200"}

    run_in_reactor(scenario())
