"""What one peer may have of a Device on ``[::1]``: a flood at one Device leaves the others alone, and is soon over."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from lom_parties import (
    ADDRESS_2,
    CONTROLLER_CA,
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    NAME,
    QUICK,
    Sockets,
    controller,
    device,
    item,
)
from lom_peers import PEER_SECONDS, SHORT, RawController, answers, good, in_thread, read_all, request, still_serves
from msgspec.structs import replace
from twisted.internet import reactor

from agent.lom.requests import RelayOutcome
from agent.net.transport.stream import Timeouts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE

Run = Callable[[Coroutine[Any, Any, Any]], Any]
OTHER_NAME = "other.lom.test"
OTHER_CONTROLLER = CONTROLLER_CA.issue("second.lom.test", LOM_USAGE)


def the_others_device() -> Any:
    return device(DEVICE_CA.issue(OTHER_NAME, LOM_USAGE), index=2, addresses=[ADDRESS_2])


def ended(sock: socket.socket) -> bool:
    """Whether the other end closes the connection, cleanly or not, before this one's time limit."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while sock.recv(65536):
            pass
    return True


Flood = Callable[[Path, int], int]


def connect_and_say_nothing(_folder: Path, port: int) -> int:
    with socket.create_connection(("::1", port), timeout=PEER_SECONDS) as sock:
        sock.sendall(b"\x16\x03\x01")
        sock.settimeout(0.001)
        with contextlib.suppress(TimeoutError):
            return int(sock.recv(1) == b"")
        HELD.append(sock.dup())
    return 1


def ask_and_ask(folder: Path, port: int) -> int:
    with RawController(folder, port, CONTROLLER_IDENTITY) as tls:
        tls.sendall(b"".join(request(f"{number}") for number in range(64)))
        return len(answers(read_all(tls)))


HELD: list[socket.socket] = []


@pytest.mark.parametrize("flood", [connect_and_say_nothing, ask_and_ask], ids=["half-open", "asking"])
def test_flood_of_one_device_does_not_affect_others(run_in_reactor: Run, tmp_path: Path, flood: Flood) -> None:
    flooded, other = device(), the_others_device()
    stop, started = threading.Event(), threading.Event()

    def keep_on(port: int) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                flood(tmp_path, port)
                started.set()

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, flooded, limits=replace(QUICK, links_a_peer=8, requests_a_second=40)) as sockets:
            sockets.network.add(other, OTHER_NAME)
            flooding = in_thread(lambda: keep_on(sockets.network.port))
            assert await in_thread(lambda: started.wait(PEER_SECONDS))
            outcomes: list[RelayOutcome] = []
            for number in range(30):
                outcomes += await sockets.relay(controller(), item(ADDRESS_2, name=OTHER_NAME, uuid=f"{number}"))
            stop.set()
            await flooding
        return outcomes

    try:
        assert run_in_reactor(run()) == [RelayOutcome(f"{number}") for number in range(30)]
    finally:
        while HELD:
            HELD.pop().close()
    assert len(other.asked) == 30


def connect(sockets: Sockets, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
    address = ("::1", sockets.network.port)
    return [stack.enter_context(socket.create_connection(address, timeout=PEER_SECONDS)) for _ in range(count)]


def test_links_in_the_handshake_are_limited_per_address(run_in_reactor: Run, tmp_path: Path) -> None:
    """The third is closed at once; when one of the others is gone there is room again."""
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=replace(QUICK, links_a_peer=2)) as sockets:

            def work() -> bytes:
                with contextlib.ExitStack() as stack:
                    first, second, third = connect(sockets, stack, 3)
                    assert ended(third)
                    for peer in (first, second):
                        peer.setblocking(False)
                        with pytest.raises(BlockingIOError):
                            peer.recv(1)
                    first.close()
                    while True:  # until the Device has seen that one go
                        with (
                            contextlib.suppress(ConnectionError, ssl.SSLError),
                            RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls,
                        ):
                            tls.sendall(request())
                            return tls.recv(65536)

            return await in_thread(work)

    assert answers(run_in_reactor(run())) == [good()]


def test_links_in_the_handshake_time_out(run_in_reactor: Run, tmp_path: Path) -> None:
    party = device()

    async def run() -> None:
        limits = replace(QUICK, links_a_peer=2)
        with Sockets(reactor, party, limits=limits, timeouts=Timeouts(handshake=SHORT)) as sockets:

            def work() -> None:
                with contextlib.ExitStack() as stack:
                    assert all(ended(peer) for peer in connect(sockets, stack, 2))
                    connect(sockets, stack, 1)

            await in_thread(work)
            await still_serves(sockets, party)

    run_in_reactor(run())


def links_of(folder: Path, port: int, stack: contextlib.ExitStack, count: int, identity: Identity) -> list[Any]:
    links = [stack.enter_context(RawController(folder, port, identity)) for _ in range(count)]
    for number, tls in enumerate(links):
        tls.sendall(request(f"{number}"))
    return links


def test_open_links_are_limited_per_controller(run_in_reactor: Run, tmp_path: Path) -> None:
    party = device()

    async def run() -> None:
        with Sockets(reactor, party, limits=replace(QUICK, links_a_peer=2)) as sockets:

            def work() -> None:
                with contextlib.ExitStack() as stack:
                    first = links_of(tmp_path, sockets.network.port, stack, 2, CONTROLLER_IDENTITY)
                    assert [answers(tls.recv(65536)) for tls in first] == [[good("0")], [good("1")]]
                    (third,) = links_of(tmp_path, sockets.network.port, stack, 1, CONTROLLER_IDENTITY)
                    assert read_all(third) == b""
                    (others,) = links_of(tmp_path, sockets.network.port, stack, 1, OTHER_CONTROLLER)
                    assert answers(others.recv(65536)) == [good("0")]
                    with contextlib.suppress(ssl.SSLError):
                        first[0].unwrap()
                    assert ended(first[0])
                    with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as again:
                        again.sendall(request("again"))
                        assert answers(again.recv(65536)) == [good("again")]

            await in_thread(work)

    run_in_reactor(run())


def test_controller_above_the_rate_limit_gets_an_error_and_is_disconnected(run_in_reactor: Run, tmp_path: Path) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_second=3)) as sockets:

            def work() -> bytes:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.sendall(b"".join(request(f"{number}") for number in range(9)))
                    received = read_all(tls)
                with RawController(tmp_path, sockets.network.port, OTHER_CONTROLLER) as tls:
                    tls.sendall(request("other"))
                    assert answers(tls.recv(65536)) == [good("other")]
                return received

            return await in_thread(work)

    *done, refused = answers(run_in_reactor(run()))
    assert done == [good(f"{number}") for number in range(len(done))]
    assert refused["DeviceRequestReturnError"] == "too many requests: one Controller may send 3 per second"
    assert [(asked.uuid, name) for asked, name in party.asked] == [
        *((f"{number}", CONTROLLER_NAME) for number in range(len(done))),
        ("other", "second.lom.test"),
    ]


def test_duration_of_a_busy_link_is_limited(run_in_reactor: Run, tmp_path: Path) -> None:
    """Each request is in time; the link's own time is over before they are."""
    party = device()

    async def run() -> int:
        with Sockets(reactor, party, limits=replace(QUICK, link_seconds=3 * SHORT)) as sockets:

            def work() -> int:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    for number in range(64):
                        try:
                            tls.sendall(request(f"{number}"))
                            if not tls.recv(65536):
                                return number
                        except (ConnectionError, ssl.SSLError):
                            return number
                        threading.Event().wait(SHORT / 3)
                return 64

            return await in_thread(work)

    assert run_in_reactor(run()) < 64


def test_controller_that_reads_no_answers_is_disconnected(run_in_reactor: Run, tmp_path: Path) -> None:
    party = device()

    async def run() -> None:
        with Sockets(reactor, party, limits=replace(QUICK, request_seconds=SHORT, requests_a_link=10**6)) as sockets:

            def work() -> None:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    tls.sendall(b"".join(request(f"{number}") for number in range(150)))
                    threading.Event().wait(3 * SHORT)
                    assert ended(tls)

            await in_thread(work)
            await still_serves(sockets, party)

    run_in_reactor(run())


def test_sni_determines_which_device_is_limited(run_in_reactor: Run, tmp_path: Path) -> None:
    """Links that are full at one Device are free at the other, for the same Controller."""
    full, other = device(), the_others_device()

    async def run() -> None:
        with Sockets(reactor, full, limits=replace(QUICK, links_a_peer=1)) as sockets:
            sockets.network.add(other, OTHER_NAME)

            def work() -> None:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY, name=NAME) as tls:
                    tls.sendall(request("full"))
                    assert answers(tls.recv(65536)) == [good("full")]
                    with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY, name=OTHER_NAME) as free:
                        free.sendall(request("free"))
                        assert answers(free.recv(65536)) == [good("free")]

            await in_thread(work)

    run_in_reactor(run())
    assert [asked.uuid for asked, _ in other.asked] == ["free"]
