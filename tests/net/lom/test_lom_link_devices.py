"""The Controller's end of the LOM link on ``[::1]`` with Devices that share no code with it and mean no good."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from lom_parties import (
    ADDRESS,
    ADDRESS_2,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    QUICK,
    Sockets,
    controller,
    device,
    item,
)
from lom_peers import (
    IMPATIENT,
    PEER_SECONDS,
    SHORT,
    RawDevice,
    answers,
    binary,
    good,
    in_thread,
    request,
)
from msgspec.structs import replace
from odd_certificates import UNREADABLE, odd_identity
from twisted.internet import reactor

from agent.lom.requests import RelayOutcome
from agent.net.transport.stream import Timeouts
from agent.pki.identity import Identity

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def raw_device(tmp_path: Path) -> Iterator[Callable[..., RawDevice]]:
    made: list[tuple[RawDevice, threading.Thread]] = []

    def make(script: Callable[[ssl.SSLSocket], None], identity: Identity = DEVICE_IDENTITY) -> RawDevice:
        peer = RawDevice(tmp_path, script, identity)
        thread = threading.Thread(target=peer.serve, daemon=True)
        thread.start()
        made.append((peer, thread))
        return peer

    yield make
    for peer, thread in made:
        peer.close()
        thread.join(PEER_SECONDS)


MakeDevice = Callable[..., RawDevice]


async def relay_to(peer: RawDevice, *items: Any, **options: Any) -> tuple[list[RelayOutcome], Sockets]:
    """Relay to a raw Device at ADDRESS; at ADDRESS_2 is one of ours, which must not be asked."""
    ours = device(index=2, addresses=[ADDRESS_2])
    with Sockets(reactor, ours, **options) as sockets:
        sockets.network.add(device(), NAME, port=peer.port)
        outcomes = await sockets.relay(controller(), *items)
        assert not ours.asked
        assert await sockets.relay(controller(), item(ADDRESS_2)) == [RelayOutcome("0001")]
    return outcomes, sockets


def test_other_device_implementation_is_accepted(run_in_reactor: Run, raw_device: MakeDevice) -> None:
    heard: list[bytes] = []

    def script(tls: ssl.SSLSocket) -> None:
        heard.append(tls.recv(65536))
        for octet in binary(good()):
            tls.sendall(bytes([octet]))
        heard.append(tls.recv(1))

    peer = raw_device(script)
    outcomes, _ = run_in_reactor(relay_to(peer, item(ADDRESS, ADDRESS_2)))
    assert outcomes == [RelayOutcome("0001")]
    peer.close()
    assert heard == [request(), b""]


def reset(tls: ssl.SSLSocket) -> None:
    tls.recv(65536)
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(tls: ssl.SSLSocket) -> None:
    tls.recv(65536)
    tls.unwrap()


def say(octets: bytes) -> Callable[[ssl.SSLSocket], None]:
    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        tls.sendall(octets)
        tls.recv(1)

    return script


def say_and_leave(octets: bytes) -> Callable[[ssl.SSLSocket], None]:
    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        tls.sendall(octets)

    return script


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (reset, "lom_link_broken", "the link ended before the Device answered"),
        (hang_up, "lom_link_broken", "the link ended before the Device answered"),
        (say_and_leave(binary(good())[:-1]), "lom_link_broken", "the link ended before the Device answered"),
        (say(binary(good())[:-1]), "lom_answer_timeout", "did not answer within 0.15 s"),
        (say(b""), "lom_answer_timeout", "did not answer within 0.15 s"),
        (say(b"\0\0\x10\x01"), "lom_frame_too_long", "1 to 4096 bytes, found 4097"),
        (say(bytes(4)), "lom_frame_too_long", "1 to 4096 bytes, found 0"),
        (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "lom_frame_too_long", "bytes"),
        (say(b"\0\0\0\x08no plist"), "lom_frame_malformed", "binary plist"),
        (say(binary([])), "lom_frame_malformed", "dictionary"),
        (say(binary({"DeviceRequestUUID": "0001"})), "lom_frame_malformed", "DeviceRequestSuccess"),
        (say(binary({**good(), "DeviceRequestSuccess": 1})), "lom_frame_malformed", "DeviceRequestSuccess"),
        (say(binary(good("0002"))), "lom_frame_malformed", "request '0001', found one to '0002'"),
        (say(request()), "lom_frame_malformed", "DeviceRequestSuccess"),
        (say(binary({**good(), "DeviceRequestSuccess": False})), "lom_refused", "the Device gave no reason"),
    ],
    ids=[
        "reset",
        "hangs up",
        "half an answer and gone",
        "half an answer",
        "silence",
        "too long",
        "empty",
        "HTTP",
        "no plist",
        "array",
        "no success",
        "success is 1",
        "another request",
        "the request",
        "a failure",
    ],
)
def test_invalid_answer_is_final_for_the_item(
    run_in_reactor: Run, raw_device: MakeDevice, script: Callable[[ssl.SSLSocket], None], kind: str, words: str
) -> None:
    """The request was sent and may have been carried out: no other address is tried."""
    outcomes, sockets = run_in_reactor(
        relay_to(raw_device(script), item(ADDRESS, ADDRESS_2), limits=replace(IMPATIENT, request_seconds=PEER_SECONDS))
    )
    (outcome,) = outcomes
    assert not outcome.success
    assert words in outcome.error
    assert sockets.kinds == [kind, None]


def test_failed_handshake_leads_to_the_next_address(run_in_reactor: Run) -> None:
    silent = socket.create_server(("::1", 0), family=socket.AF_INET6)
    closed = socket.socket(socket.AF_INET6)
    closed.bind(("::1", 0))
    ours = device(index=3, addresses=["fe80::3"])

    async def run() -> Sockets:
        with Sockets(reactor, ours, timeouts=Timeouts(handshake=SHORT)) as sockets:
            sockets.network.add(device(), NAME, port=silent.getsockname()[1])
            sockets.network.add(device(index=2, addresses=[ADDRESS_2]), NAME, port=closed.getsockname()[1])
            assert await sockets.relay(controller(), item(ADDRESS, ADDRESS_2, "fe80::3")) == [RelayOutcome("0001")]
        return sockets

    with silent, closed:
        assert run_in_reactor(run()).kinds == ["tls_timeout", "connect", None]
    assert len(ours.asked) == 1


def test_simultaneous_links_are_limited(run_in_reactor: Run, raw_device: MakeDevice) -> None:
    """Three at a time: each answer waits for three requests to be there, and a fourth would be seen."""
    gate, lock = threading.Barrier(3), threading.Lock()
    open_now, most = 0, 0

    def script(tls: ssl.SSLSocket) -> None:
        nonlocal open_now, most
        asked = answers(tls.recv(65536))[0]["DeviceRequestUUID"]
        with lock:
            open_now += 1
            most = max(most, open_now)
        gate.wait(PEER_SECONDS)
        with lock:
            open_now -= 1
        tls.sendall(binary(good(asked)))
        tls.recv(1)

    items = [item(uuid=str(number)) for number in range(9)]
    outcomes, _ = run_in_reactor(relay_to(raw_device(script), *items, limits=replace(QUICK, relays_at_once=3)))
    assert outcomes == [RelayOutcome(str(number)) for number in range(9)]
    assert most == 3


@pytest.mark.parametrize("how", ["network.close()", "cancel()"])
def test_items_of_broken_links_fail(run_in_reactor: Run, raw_device: MakeDevice, how: str) -> None:
    """Nothing is left open: the fixture sees to that."""
    asked = threading.Event()
    ends: list[object] = []

    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        asked.set()
        try:
            ends.append(tls.recv(1))
        except (ConnectionResetError, ssl.SSLEOFError):
            ends.append("broke")

    peer = raw_device(script)
    items = [item(ADDRESS, ADDRESS_2, uuid="a"), item(ADDRESS_2, uuid="b"), item(ADDRESS_2, uuid="c")]

    async def run() -> tuple[list[RelayOutcome], Sockets]:
        with Sockets(reactor, limits=replace(QUICK, relays_at_once=1)) as sockets:
            sockets.network.add(device(), NAME, port=peer.port)
            relayed = sockets.network.relay(controller(), items)
            await in_thread(lambda: asked.wait(PEER_SECONDS))
            if how == "cancel()":
                relayed.cancel()
            else:
                sockets.network.close()
            assert relayed.called, "it must not wait for the peers"
            return await relayed, sockets

    outcomes, sockets = run_in_reactor(run())
    assert [outcome.uuid for outcome in outcomes] == ["a", "b", "c"]
    words = "the Controller stopped" if how == "cancel()" else "the LOM network was closed"
    assert all(words in outcome.error for outcome in outcomes)
    assert [words in (record.cut_short or "") for record in sockets.records] == [True]
    assert sockets.kinds == [None]
    peer.close()
    assert ends == ["broke"]


@pytest.mark.parametrize("fault", ["version 4", "x400Address", "subject of an empty set"])
def test_device_with_an_unreadable_certificate_gets_no_request(
    run_in_reactor: Run, raw_device: MakeDevice, fault: str
) -> None:
    heard: list[bytes] = []

    def script(tls: ssl.SSLSocket) -> None:
        heard.append(tls.recv(65536))

    peer = raw_device(script, odd_identity(DEVICE_IDENTITY, DEVICE_CA.identity.key, UNREADABLE[fault]))
    outcomes, sockets = run_in_reactor(relay_to(peer, item()))
    assert "cannot be read" in outcomes[0].error
    assert sockets.kinds[0] == "tls_certificate"
    assert not any(heard)
