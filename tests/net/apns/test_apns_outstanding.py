"""Requests whose answer comes later: what becomes of their streams, their connection, and the gateway's shutdown."""

from __future__ import annotations

import json
from pathlib import Path

import h2.errors
import h2.events
from apns_gateways import POPULATION, Peer, RunningGateway, in_thread, running_gateway
from conftest import RunInReactor
from servers import until
from twisted.internet import reactor

from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock
from agent.push.broker import Answer, Broken, Reply
from agent.push.reasons import PushRefused
from agent.push.requests import Provider
from agent.push.wire import RoutedPush

ID = "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D"


class Slow:
    """A router that answers when the test does."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}

    def route(self, fields: list[tuple[str, str]], _body: bytes, _provider: Provider, reply: Reply) -> None:
        """Keep the request, by its id."""
        self.replies[dict(fields)["apns-id"]] = reply

    def refuse(self, _fields: list[tuple[str, str]], refused: PushRefused) -> Answer:
        """As the router does."""
        body = json.dumps({"reason": refused.reason.word}).encode()
        return Answer(refused.reason.status, refused.apns_id or ID, body)

    def turned_away(self) -> None:
        """Nobody counts."""


def apns_id(number: int) -> str:
    """An id for each request of a test."""
    return f"{number:08X}{ID[8:]}"


def begin(running: RunningGateway, count: int) -> Peer:
    """A provider's connection, with so many requests under way: streams 1, 3, 5 …"""
    peer = Peer(running)
    peer.start()
    for number in range(count):
        peer.request(number % 10, **{"apns-id": apns_id(number)})
    peer.flush()
    return peer


def test_answers_can_arrive_in_any_order_and_together(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = Slow()
        async with running_gateway(tmp_path, router=slow) as running:
            peer = await in_thread(begin, running, 200)
            await until(lambda: len(slow.replies) == 200)
            slow.replies[apns_id(2)](Answer(410, apns_id(2), b'{"reason":"Unregistered"}'))
            await in_thread(peer.until, h2.events.StreamEnded)
            assert peer.statuses() == {5: "410"}
            for number in range(199, -1, -1):
                if number != 2:
                    slow.replies[apns_id(number)](Answer(200, apns_id(number)))
            await in_thread(peer.until, h2.events.StreamEnded, 200)
            assert peer.statuses() == {**{2 * number + 1: "200" for number in range(200)}, 5: "410"}
            peer.socket.close()

    run_in_reactor(scenario())


def test_reset_stream_or_connection_loses_only_its_answers(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = Slow()
        async with running_gateway(tmp_path, router=slow) as running:
            peer = await in_thread(begin, running, 3)
            await until(lambda: len(slow.replies) == 3)
            peer.h2.reset_stream(3, h2.errors.ErrorCodes.CANCEL)
            peer.h2.ping(b"12345678")
            peer.flush()
            await in_thread(peer.until, h2.events.PingAckReceived)  # by now the gateway has read the reset
            for number in (0, 1):
                slow.replies[apns_id(number)](Answer(200, apns_id(number)))
            await in_thread(peer.until, h2.events.StreamEnded)
            assert peer.statuses() == {1: "200"}
            peer.socket.close()
            other = await in_thread(begin, running, 10)
            await until(lambda: len(slow.replies) == 10)
            slow.replies[apns_id(9)](Answer(200, apns_id(9)))
            await in_thread(other.until, h2.events.StreamEnded)
            assert other.statuses() == {19: "200"}
            slow.replies[apns_id(2)](Broken())  # of the second connection, which breaks
            assert await in_thread(other.until, h2.events.StreamEnded, 2)
            assert other.ended
            slow.replies[apns_id(3)](Answer(200, apns_id(3)))  # its stream is gone
            other.socket.close()

    run_in_reactor(scenario())


def test_answer_after_the_connection_ended_is_ignored(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = Slow()
        async with running_gateway(tmp_path, router=slow) as running:
            peer = await in_thread(begin, running, 2)
            await until(lambda: len(slow.replies) == 2)
            replies = dict(slow.replies)
            peer.socket.close()
            served = await in_thread(begin, running, 1)  # after it the gateway knows of the end
            await until(lambda: slow.replies[apns_id(0)] is not replies[apns_id(0)])
            replies[apns_id(0)](Answer(200, apns_id(0)))
            replies[apns_id(1)](Broken())
            slow.replies[apns_id(0)](Answer(200, apns_id(0)))
            await in_thread(served.until, h2.events.StreamEnded)
            assert served.statuses() == {1: "200"}
            served.socket.close()

    run_in_reactor(scenario())


def test_shutdown_waits_for_outstanding_answers(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = Slow()
        async with running_gateway(tmp_path, router=slow) as running:
            peer = await in_thread(begin, running, 2)
            await until(lambda: len(slow.replies) == 2)
            closed = running.gateway.close()
            assert peer.request(3) == 5
            peer.flush()
            await in_thread(peer.until, h2.events.StreamEnded)
            assert peer.statuses() == {5: "503"}  # it came too late
            slow.replies[apns_id(1)](Answer(200, apns_id(1)))
            await in_thread(peer.until, h2.events.StreamEnded, 2)
            assert not closed.called
            slow.replies[apns_id(0)](Answer(200, apns_id(0)))
            (goaway,) = await in_thread(peer.until, h2.events.ConnectionTerminated)
            assert (goaway.error_code, goaway.last_stream_id) == (0, 5)
            assert peer.statuses() == {1: "200", 3: "200", 5: "503"}
            peer.socket.close()
            await closed

    run_in_reactor(scenario())


def test_error_goaway_names_the_last_processed_stream(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = Slow()
        async with running_gateway(tmp_path, router=slow) as running:
            peer = await in_thread(begin, running, 2)
            await until(lambda: len(slow.replies) == 2)
            peer.socket.sendall(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")  # a frame of 16 MiB
            (goaway,) = await in_thread(peer.until, h2.events.ConnectionTerminated)
            assert (goaway.error_code, goaway.last_stream_id) == (h2.errors.ErrorCodes.FRAME_SIZE_ERROR, 3)
            slow.replies[apns_id(0)](Answer(200, apns_id(0)))
            await in_thread(peer.until, h2.events.StreamEnded)
            assert peer.statuses() == {}
            peer.socket.close()

    run_in_reactor(scenario())


def test_silent_or_lost_endpoint_gives_503(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        sent: list[tuple[int, RoutedPush]] = []

        def send(shard: int, push: RoutedPush) -> None:
            sent.append((shard, push))

        clock, behaviour = RunClock(reactor), PushBehaviour()  # type: ignore[arg-type]
        router = PushRouter(reactor, POPULATION, lambda index: index % 2, send, clock, behaviour, patience=0.05)  # type: ignore[arg-type]
        async with running_gateway(tmp_path, router=router) as running:
            peer = await in_thread(begin, running, 1)
            await in_thread(peer.until, h2.events.StreamEnded)
            router.shard_gone(1)
            peer.request(1)
            peer.flush()
            await in_thread(peer.until, h2.events.StreamEnded, 2)
            assert peer.statuses() == {1: "503", 3: "503"}
            (first, _second) = [event for event in peer.events if isinstance(event, h2.events.ResponseReceived)]
            assert dict(first.headers)["apns-id"] == apns_id(0)
            assert [shard for shard, _push in sent] == [0]
            peer.socket.close()
        router.close()

    run_in_reactor(scenario())
