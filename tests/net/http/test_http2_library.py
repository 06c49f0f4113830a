"""The HTTP/2 client core with the `h2` library as its server: every exchange arrives whole, however it is cut."""

from __future__ import annotations

import pytest
from h2.events import ConnectionTerminated, PingAckReceived, StreamReset
from h2.settings import SettingCodes
from http2_peers import CANCEL, LibraryServer, put
from hypothesis import example, given
from hypothesis import strategies as st

from agent.net.http.http1 import ResponseMalformed
from agent.net.http.http2 import HTTP2Client

VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60)
NAMES = st.sampled_from(["content-type", "server", "date", "x-request-id", "set-cookie", "via"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
BODIES = st.binary(max_size=300) | st.integers(16_000, 70_000).map(lambda size: b"x" * size)
CUTS = st.lists(st.integers(1, 400), max_size=6).map(tuple)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        SettingCodes.HEADER_TABLE_SIZE: st.sampled_from([0, 100, 4096, 65_536]),
        SettingCodes.INITIAL_WINDOW_SIZE: st.sampled_from([1_000, 65_535, 2**20, 2**31 - 1]),
        SettingCodes.MAX_FRAME_SIZE: st.sampled_from([16_384, 2**24 - 1]),
        SettingCodes.MAX_CONCURRENT_STREAMS: st.sampled_from([1, 100]),
        SettingCodes.ENABLE_CONNECT_PROTOCOL: st.just(1),
    },
)
EXCHANGES = st.lists(st.tuples(st.none() | BODIES, FIELDS, BODIES, st.none() | st.integers(0, 200)), max_size=3)


@given(SETTINGS, EXCHANGES, CUTS)
@example({SettingCodes.HEADER_TABLE_SIZE: 0}, [(None, [], b"", None)] * 2, (1, 9, 10))
def test_exchanges_arrive_whole(
    settings: dict[SettingCodes | int, int],
    exchanges: list[tuple[bytes | None, list[tuple[str, str]], bytes, int | None]],
    cuts: tuple[int, ...],
) -> None:
    client = HTTP2Client()
    server = LibraryServer(client, settings)
    for number, (sent, fields, received, pad) in enumerate(exchanges):
        stream = 1 + 2 * number
        client.request(put(sent, **{"Mdm-Signature": "c2lnbmVk"}))
        assert server.turn(cuts) is None
        assert server.ended == list(range(1, stream + 1, 2))
        assert server.bodies[stream] == (sent or b"")
        expected = [
            (":method", "PUT"),
            (":scheme", "https"),
            (":authority", "mdm.example.org"),
            (":path", "/mdm?id=1"),
            ("user-agent", "MDM-OSX/1.0"),
            ("mdm-signature", "c2lnbmVk"),
        ]
        assert server.fields[stream] == expected + ([] if sent is None else [("content-length", str(len(sent)))])
        length = [("content-length", str(len(received)))] if number % 2 else []
        server.answer(stream, [(":status", "200"), *fields, *length], received, pad=pad)
        response = server.turn(cuts)
        assert response is not None
        assert (response.status, response.body, response.keep_alive) == (200, received, True)
        assert response.headers == joined([*fields, *length])


def joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, value in fields:
        found.setdefault(name, []).append(value)
    return {name: ", ".join(values) for name, values in found.items()}


@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes_of_a_server_are_read_or_refused(octets: bytes, turns: int) -> None:
    client = HTTP2Client()
    server = LibraryServer(client)
    client.request(put())
    for _ in range(turns):
        server.turn()
    try:
        client.receive(octets)
    except ResponseMalformed:
        assert client.going_away
        sent = server.h2.receive_data(client.take())
        assert isinstance(sent[-1], ConnectionTerminated)


def test_an_early_answer_cancels_the_rest_of_the_body() -> None:
    client = HTTP2Client()
    server = LibraryServer(client)
    client.request(put(b"x" * 100_000))
    server.h2.receive_data(client.take())
    server.answer(1, [(":status", "413")], b"too large")
    response = server.turn()
    assert response is not None
    assert (response.status, response.body) == (413, b"too large")
    (reset,) = [each for each in server.events if isinstance(each, StreamReset)]
    assert reset.error_code == CANCEL
    server.h2.increment_flow_control_window(100_000)
    client.request(put(b"next"))
    server.turn()
    assert server.bodies[3] == b"next"


def test_a_ping_is_answered() -> None:
    client = HTTP2Client()
    server = LibraryServer(client)
    client.request(put())
    server.h2.ping(b"12345678")
    server.turn()
    assert [each.ping_data for each in server.events if isinstance(each, PingAckReceived)] == [b"12345678"]


@pytest.mark.parametrize("code", [0, 2])
def test_goaway_of_the_library(code: int) -> None:
    client = HTTP2Client()
    server = LibraryServer(client)
    client.request(put())
    server.turn()
    server.answer(1, [(":status", "200")], b"last")
    server.h2.close_connection(code)
    response = server.turn()
    assert response is not None
    assert (response.body, response.keep_alive) == (b"last", False)
    assert not client.usable
