"""Limits of the number of connections: those without a certificate never keep out a provider with one."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import h2.events
from apns_gateways import HOST, Peer, RunningGateway, in_thread, running_gateway
from conftest import RunInReactor
from servers import until

from agent.net.apns.connection import GatewayLimits

FEW = GatewayLimits(newcomers=5, providers=3, linger=0.05)


def silent(running: RunningGateway) -> socket.socket:
    """A connection that never shakes hands."""
    return socket.create_connection((HOST, running.gateway.port), timeout=20)


def nameless(running: RunningGateway) -> Peer:
    """A connection without a certificate that has shaken hands, and asks for nothing."""
    peer = Peer(running, provider=None)
    peer.start()
    peer.until(h2.events.RemoteSettingsChanged)
    return peer


def certified(running: RunningGateway) -> Peer:
    """A provider that was answered, and stays."""
    peer = Peer(running)
    peer.start()
    push(peer)
    return peer


def push(peer: Peer) -> None:
    """A push that is accepted."""
    stream_id = peer.request()
    peer.flush()
    while not peer.ended and stream_id not in peer.statuses():
        peer.read()
    assert peer.statuses().get(stream_id) == "200"


def ended(sock: socket.socket) -> bool:
    """The gateway closes the connection."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_idle_connections_without_a_certificate_do_not_block_providers(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=FEW) as running:

            def flood() -> None:
                provider = certified(running)
                mute = [silent(running) for _ in range(20)]
                peers = [nameless(running) for _ in range(20)]
                again = certified(running)
                push(provider)
                for sock in mute:  # the oldest had to go: the last that came have room for five
                    assert ended(sock)
                    sock.close()
                for peer in (*peers, provider, again):
                    peer.socket.close()

            await in_thread(flood)
            assert running.counts["own"]["connections"] >= 35
            assert running.counts["accepted"] == 3

    run_in_reactor(scenario())


def test_connection_without_a_certificate_is_closed_before_a_providers(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    limits = GatewayLimits(newcomer_idle=0.1, look=0.02, linger=0.05)

    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=limits) as running:

            def stay() -> None:
                provider = certified(running)
                peer = nameless(running)
                (goaway,) = peer.until(h2.events.ConnectionTerminated)
                assert json.loads(goaway.additional_data) == {"reason": "IdleTimeout"}
                peer.socket.close()
                push(provider)
                provider.socket.close()

            await in_thread(stay)

    run_in_reactor(scenario())


def test_provider_above_the_limit_replaces_the_longest_idle_one(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=FEW) as running:

            def fill() -> None:
                peers = [certified(running) for _ in range(3)]
                push(peers[0])  # now the second is idle for longest
                peers.append(certified(running))
                (goaway,) = peers[1].until(h2.events.ConnectionTerminated)
                assert json.loads(goaway.additional_data) == {"reason": "IdleTimeout"}
                for number in (0, 2, 3):
                    push(peers[number])
                for peer in peers:
                    peer.socket.close()

            await in_thread(fill)
            assert running.counts["own"]["connections"] == 1

    run_in_reactor(scenario())


def test_provider_above_the_limit_is_closed_if_all_are_busy(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=FEW) as running:

            def fill() -> None:
                peers = [certified(running) for _ in range(3)]
                for peer in peers:
                    peer.request(ended=False)
                    peer.h2.ping(b"12345678")
                    peer.flush()
                    peer.until(h2.events.PingAckReceived)  # by now the gateway has the half request
                late = Peer(running)
                late.start()
                (goaway,) = late.until(h2.events.ConnectionTerminated)
                assert json.loads(goaway.additional_data) == {"reason": "ServiceUnavailable"}
                for peer in (*peers, late):
                    peer.socket.close()

            await in_thread(fill)

    run_in_reactor(scenario())


def test_closing_connections_are_limited(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    limits = GatewayLimits(newcomers=2, providers=1, linger=1000.0)

    async def scenario() -> None:
        async with running_gateway(tmp_path, limits=limits) as running:

            def come_and_stay() -> list[Peer]:
                return [certified(running) for _ in range(8)]

            peers = await in_thread(come_and_stay)
            assert running.gateway.connections <= 1 + 2 + 2
            for peer in peers:
                peer.socket.close()
            await until(lambda: running.gateway.connections == 0)

    run_in_reactor(scenario())
