"""Version 2 of the LOM link over TLS: acknowledgements, repeated answers, a Controller that comes back; racing."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from lom_parties import ADDRESS, ADDRESS_2, CONTROLLER_IDENTITY, NAME, QUICK, Sockets, controller, device, item
from lom_peers import PEER_SECONDS, RawController, RawDevice, answers, binary, good, in_thread, read_all, request
from msgspec.structs import replace
from twisted.internet import reactor

from agent.lom.requests import RelayOutcome

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Script = Callable[[ssl.SSLSocket, bytes], None]


@pytest.fixture
def raw_device(tmp_path: Path) -> Iterator[Callable[[Script], int]]:
    """A Device in a thread, whose script gets each link with its request; returns the port."""
    with ExitStack() as stack:

        def start(script: Script) -> int:
            peer = RawDevice(tmp_path, lambda tls: script(tls, tls.recv(65536)))
            threading.Thread(target=peer.serve, daemon=True).start()
            stack.callback(peer.close)
            return peer.port

        yield start


def second(uuid: str = "0001", *addresses: str) -> Any:
    return replace(item(*addresses, uuid=uuid), version=2)


def acknowledgement(uuid: str) -> dict[str, Any]:
    return {"DeviceRequestUUID": uuid, "ResponseAcknowledged": True}


# The Controller


def test_a_controller_acknowledges_and_closes_in_order(run_in_reactor: Run, raw_device: Any) -> None:
    heard: Queue[Any] = Queue()

    def script(tls: ssl.SSLSocket, _asked: bytes) -> None:
        tls.sendall(binary(good("older")) + binary(good()))
        heard.put(read_all(tls))
        tls.unwrap()  # fails without the Controller's close_notify
        heard.put("closed in order")

    port = raw_device(script)

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor) as sockets:
            sockets.network.add(device(), NAME, port=port)
            return await sockets.relay(controller(), second())

    assert run_in_reactor(run()) == [RelayOutcome("0001")]
    assert answers(heard.get(timeout=PEER_SECONDS)) == [acknowledgement("older"), acknowledgement("0001")]
    assert heard.get(timeout=PEER_SECONDS) == "closed in order"


@pytest.mark.parametrize(("version", "links"), [(1, 1), (2, 2)])
def test_a_controller_comes_back_for_its_answer(run_in_reactor: Run, raw_device: Any, version: int, links: int) -> None:
    """The first link ends after the request. In version 2 the Controller sends the same request once more."""
    asked: list[bytes] = []

    def script(tls: ssl.SSLSocket, octets: bytes) -> None:
        asked.append(octets)
        if len(asked) == 1:
            tls.unwrap()
        else:
            tls.sendall(binary(good()))
            read_all(tls)

    port = raw_device(script)

    async def run() -> tuple[list[RelayOutcome], Sockets]:
        with Sockets(reactor) as sockets:
            sockets.network.add(device(), NAME, port=port)
            return await sockets.relay(controller(), replace(item(), version=version)), sockets

    (outcome,), sockets = run_in_reactor(run())
    assert len(asked) == links
    assert len(set(asked)) == 1
    assert bool(outcome.error) is (version == 1)
    assert sockets.kinds == ["lom_link_broken", *([None] if version == 2 else [])]


def test_a_device_that_is_gone_afterwards_leaves_the_outcome_unknown(run_in_reactor: Run, tmp_path: Path) -> None:
    peers: list[RawDevice] = []

    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        peers[0]._listener.shutdown(socket.SHUT_RDWR)
        peers[0]._listener.close()
        tls.unwrap()

    peers.append(RawDevice(tmp_path, script))
    threading.Thread(target=peers[0].serve, daemon=True).start()

    async def run() -> tuple[list[RelayOutcome], Sockets]:
        with Sockets(reactor, device(index=2, addresses=[ADDRESS_2])) as sockets:
            sockets.network.add(device(), NAME, port=peers[0].port)
            return await sockets.relay(controller(), second("0001", ADDRESS, ADDRESS_2)), sockets

    (outcome,), sockets = run_in_reactor(run())
    peers[0].close()
    assert "the link ended before the Device answered" in outcome.error
    assert "connected again: the TCP connection failed: Connection refused" in outcome.error
    assert sockets.kinds == ["lom_link_broken", "connect"]  # the other address is not asked: it may have been done
    assert [record.facts["verdict"] for record in sockets.records] == ["unknown", "not sent"]


# The Device


def test_an_answer_without_acknowledgement_is_repeated_on_the_next_link(run_in_reactor: Run, tmp_path: Path) -> None:
    party = device()

    async def run() -> tuple[Any, Any, Any]:
        with Sockets(reactor, party) as sockets:

            def exchange(octets: bytes, *acknowledged: str) -> list[Any]:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.sendall(octets)
                    heard = b""
                    for _ in acknowledged or ("the own one",):
                        heard += tls.recv(65536)
                    for uuid in acknowledged:
                        tls.sendall(binary(acknowledgement(uuid)))
                    tls.unwrap()  # waits for the Device's close_notify
                    return answers(heard)

            lost = await in_thread(lambda: exchange(request("lost", LOMProtocolVersion=2)))
            old = await in_thread(lambda: exchange(request("version 1")))  # learns nothing of it
            both = await in_thread(lambda: exchange(request("new", LOMProtocolVersion=2), "lost", "new"))
            none = await in_thread(lambda: exchange(request("last", LOMProtocolVersion=2), "last"))
            return (lost, old, both, none)

    lost, old, both, none = run_in_reactor(run())
    assert [[each["DeviceRequestUUID"] for each in heard] for heard in (lost, old, both, none)] == [
        ["lost"],
        ["version 1"],
        ["lost", "new"],
        ["last"],
    ]


def test_a_device_does_not_wait_for_an_acknowledgement_for_ever(run_in_reactor: Run, tmp_path: Path) -> None:
    party = device()

    async def run() -> bytes:
        limits = replace(QUICK, acknowledgement_seconds=0.05, request_seconds=60.0)
        with Sockets(reactor, party, limits=limits) as sockets:

            def work() -> bytes:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.sendall(request(LOMProtocolVersion=2))
                    return read_all(tls)  # to the end of the link

            return await in_thread(work)

    assert answers(run_in_reactor(run())) == [good()]
    assert [each.uuid for each in party.unacknowledged_lom_answers("controller.lom.test")] == ["0001"]


# Raced addresses


@pytest.mark.parametrize("delay", [0.02, None])
def test_the_next_address_is_tried_while_one_is_silent(run_in_reactor: Run, delay: float | None) -> None:
    party = device(index=2, addresses=[ADDRESS_2])

    async def run(port: int) -> tuple[list[RelayOutcome], Sockets]:
        limits = replace(QUICK, attempt_delay_seconds=delay)
        with Sockets(reactor, party, limits=limits) as sockets:
            sockets.network.timeouts = replace(sockets.network.timeouts, handshake=60.0 if delay else 0.05)
            sockets.network.add(device(), NAME, port=port)
            return await sockets.relay(controller(), second("0001", ADDRESS, ADDRESS_2)), sockets

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as silent:
        outcomes, sockets = run_in_reactor(run(silent.getsockname()[1]))
    assert outcomes == [RelayOutcome("0001")]
    assert len(party.asked) == 1
    assert sockets.kinds == ([None] if delay else ["tls_timeout", None])  # a superfluous link has no record
    assert not any(record.cut_short for record in sockets.records)


def test_a_request_is_sent_over_one_link_where_two_addresses_answer(run_in_reactor: Run) -> None:
    party = device(addresses=[ADDRESS, ADDRESS_2])

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, party, limits=replace(QUICK, attempt_delay_seconds=0.0)) as sockets:
            outcomes = []
            for number in range(20):
                outcomes += await sockets.relay(controller(), second(f"{number}", ADDRESS, ADDRESS_2))
            return outcomes

    assert run_in_reactor(run()) == [RelayOutcome(f"{number}") for number in range(20)]
    assert [asked.uuid for asked, _ in party.asked] == [f"{number}" for number in range(20)]


def test_a_controller_that_loses_power_ends_every_attempt(run_in_reactor: Run) -> None:
    async def run(port: int) -> Sockets:
        with Sockets(reactor, limits=replace(QUICK, attempt_delay_seconds=0.0)) as sockets:
            for index, address in enumerate((ADDRESS, ADDRESS_2)):
                sockets.network.add(device(index=index + 1, addresses=[address]), NAME, port=port)
            relayed = sockets.network.relay(controller(), [second("0001", ADDRESS, ADDRESS_2)])
            await in_thread(lambda: None)
            relayed.cancel()
            (outcome,) = await relayed
            assert "the Controller stopped before an answer came" in outcome.error
        return sockets

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as silent:
        sockets = run_in_reactor(run(silent.getsockname()[1]))
    assert {bool(record.cut_short) for record in sockets.records} == {True}
