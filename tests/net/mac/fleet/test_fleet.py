"""A fleet makes Macs on first access, finds them by address and name, and serialises idle ones."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from conftest import RunInReactor
from stack import Stack, stack
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from agent.fleet.durations import Constant
from agent.fleet.population import NoSuchMacError, Population
from agent.lom.endpoint import Endpoint
from agent.lom.link import LinkRequest
from agent.lom.power import Power
from agent.lom.requests import PowerRequest, RelayItem
from agent.net.lom.interface import InterfaceNetwork
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import ACTIVE_MAC_BYTES, REST_SECONDS, Fleet, FleetBehaviour
from agent.profiles.making import lom_profile
from agent.push.broker import Presence

QUICK = FleetBehaviour(boot=Constant(0.05))


def fleet(devices: int = 100, indexes: range | None = None, memory: int = 0) -> Fleet:
    return Fleet(Population("lazy", devices), Stack(1).environment, indexes=indexes, memory=memory)


def test_a_mac_is_made_when_it_is_asked_for_and_then_stays_the_same() -> None:
    macs = fleet()
    assert len(macs) == 100
    assert list(macs.made()) == []
    assert macs[17] is macs[17]
    assert macs[17].is_idle
    assert [client.index for client in macs.made()] == [17]
    assert [macs[index].segment for index in (17, 90, 99)] == [1, 9, 9]
    assert [client.index for client in macs.made()] == [17, 90, 99]
    assert [client.index for client in macs] == list(range(100))


def test_a_shard_has_its_own_macs_and_no_others() -> None:
    macs = fleet(indexes=range(20, 40))
    assert len(macs) == 20
    assert [client.index for client in macs] == list(range(20, 40))
    assert 39 in macs
    for index in (0, 19, 40, 100, -1):
        assert index not in macs
        with pytest.raises(NoSuchMacError):
            macs[index]
    elsewhere = macs.population[5]
    assert macs.at_address(elsewhere.segment, elsewhere.primary_ipv6[0]) is None
    assert macs.at_name(elsewhere.dns_name) is None


def test_every_mac_is_found_by_its_addresses_in_its_segment_and_by_its_name() -> None:
    macs = fleet()
    for mac in macs.population:
        for address in (*mac.primary_ipv6, *mac.secondary_ipv6):
            assert macs.at_address(mac.segment, address) is macs[mac.index]
            assert macs.at_address(mac.segment + 1, address) is None
        assert macs.at_name(mac.dns_name) is macs[mac.index]


def test_a_mac_is_found_by_its_udid_once_it_was_made() -> None:
    macs = fleet()
    with pytest.raises(KeyError):
        macs.of_udid(macs.population.udid(3))
    client = macs[3]
    assert macs.of_udid(macs.population.udid(3)) is client
    assert macs.of_udid(client.device.mac.udid) is client
    with pytest.raises(KeyError):
        macs.of_udid("8AF24552-A39F-53BE-982D-C18F0DA5431D")


def test_network_that_cannot_calculate_names_is_given_every_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, added = Stack(1).environment, []

    def add(endpoint: Endpoint, dns_name: str) -> None:
        added.append((endpoint.index, dns_name))

    monkeypatch.setattr(environment.network, "join", InterfaceNetwork.join.__get__(environment.network))
    monkeypatch.setattr(environment.network, "add", add)
    population = Population("lazy", 3)
    Fleet(population, environment)
    assert added == [(mac.index, mac.dns_name) for mac in population]


def test_rest_checks_and_makes_idle_no_more_macs_than_its_bounds() -> None:
    macs = fleet()
    for client in macs:
        _ = client.device
    assert macs.make_idle(most=3, looks=10) == 3
    assert macs.make_idle(most=30, looks=10) == 10
    macs[99].device.session.wake()
    assert sum(macs.make_idle(most=200, looks=500) for _ in range(5)) == 86
    assert [client.index for client in macs if not client.is_idle] == [99]


def test_the_further_beyond_the_memory_the_more_macs_are_made_idle() -> None:
    macs = fleet(devices=1000, memory=100 * ACTIVE_MAC_BYTES)
    for client in macs:
        _ = client.device
    active = [1000]
    for _ in range(3):
        macs.keep_within_memory()
        active.append(sum(not client.is_idle for client in macs))
    assert active == [1000, 1000 - 45, 955 - 42, 913 - 40]


def becomes_idle(client: MDMClient) -> bool:
    return client.make_idle() and client.is_idle


async def with_lom(running: Stack, client: MDMClient) -> None:
    name = client.device.mac.dns_name
    profile = lom_profile(running.server.authorities, name, device=True, controller=client.index == 0)
    assert (await running.command(client, "InstallProfile", Payload=profile))["Status"] == "Acknowledged"


def test_a_mac_that_lay_down_answers_as_before(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            before = await running.command(client, "ProfileList")
            assert not becomes_idle(client)  # a session is open
            await running.until(lambda: client.open_session is None, "the session's end")
            client._parts.sessions.end("the server closed the connection")  # as where the server closes it
            assert client.enrolled
            assert becomes_idle(client)
            assert max(map(sys.getsizeof, client._kept)) <= 512  # more would be in the C library's heap
            assert client.enrolled
            assert running.fleet.make_idle() == 0
            after = await running.command(client, "ProfileList")
            assert after["ProfileList"] == before["ProfileList"]
            assert not client.is_idle

    run_in_reactor(scenario())


def test_an_idle_mac_is_reached_by_its_controller_and_boots(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2, behaviour=QUICK) as running:
            controller, device = running.fleet
            for client in (controller, device):
                await with_lom(running, client)
                await running.until(lambda: client.open_session is None, "the session's end")  # noqa: B023
                client._parts.sessions.end("the server closed the connection")
                assert becomes_idle(client)
            mac = running.fleet.population[1]
            item = RelayItem("0001", mac.dns_name, PowerRequest.RESET, mac.primary_ipv6, None)
            (outcome,) = await running.network.relay(controller, [item])
            assert outcome.error == ""
            assert not becomes_idle(device)  # it boots
            await running.until(
                lambda: device.boots == 1 and device.open_session is None, "the boot, and a session after it"
            )
            device._parts.sessions.end("the server closed the connection")
            assert becomes_idle(device)
            assert device.boots == 1
            version = mac.lom_protocol_version
            again = device.receive_lom_request(LinkRequest("0001", mac.dns_name, PowerRequest.RESET, version), "nobody")
            assert again.error == ""  # of another Controller it is a new request
            assert device.device.power.state is Power.BOOTING

    run_in_reactor(scenario())


def test_whether_a_mac_left_is_known_after_it_lay_down(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            gone: list[int] = []
            running.fleet.gateway.on_left = gone.append
            identifier = next(iter(client.device.profiles)).identifier
            await running.command(client, "RemoveProfile", Identifier=identifier)
            await running.until(lambda: not client.enrolled and client._parts.background.quiet, "the end of management")
            assert gone == [0]
            left_at = client.pushes.left_at
            assert becomes_idle(client)
            assert client.pushes.presence is Presence.LEFT
            assert client.pushes.left_at == left_at is not None

    run_in_reactor(scenario())


def test_the_enrollment_under_way_keeps_a_mac_awake(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client, rested = running.fleet[0], []

            async def fetch() -> bytes:
                rested.append(client.make_idle())
                return running.server.enrollment_profile()

            await client.enroll(fetch)
            assert rested == [False]
            assert becomes_idle(client)

    run_in_reactor(scenario())


def test_macs_within_the_memory_stay_active_the_most_recently_used_ones() -> None:
    macs = fleet(memory=3 * ACTIVE_MAC_BYTES)
    for client in macs:
        _ = client.device
    macs[1].wake()
    macs[0].wake()
    while macs.make_idle():
        pass
    assert [client.index for client in macs if not client.is_idle] == [0, 1, 99]


def test_key_of_a_connected_mac_is_freed_beyond_the_memory_alone(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client, macs = running.fleet[0], running.fleet
            await running.command(client, "ProfileList")
            await running.until(lambda: client.open_session is None, "the session's end")
            (identity,) = client.device.identities
            macs._most_active = 1
            assert macs.make_idle() == 0
            assert identity._key is not None
            assert identity.for_tls is not None
            await running.command(client, "ProfileList")
            await running.until(lambda: client.open_session is None, "the session's end")
            assert identity.for_tls is None  # the server keeps the connection: its handshake is over
            macs._most_active = 0
            assert macs.make_idle() == 1
            assert client.connected
            assert not client.is_idle
            assert identity._key is None

    run_in_reactor(scenario())


async def idle_with_open_connection(running: Stack) -> MDMClient:
    client = running.fleet[0]
    await running.command(client, "ProfileList")
    await running.until(lambda: client.open_session is None, "the session's end")
    assert becomes_idle(client)
    assert client.connected
    return client


def test_idle_mac_keeps_its_connection_for_the_next_session(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            contexts = running.environment.contexts
            client = await idle_with_open_connection(running)
            handshakes = contexts.handshakes_full
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert contexts.handshakes_full == handshakes
            enrollment = client.device.enrollment
            assert enrollment is not None
            connection = client._parts.connection._connection
            assert connection is not None
            assert connection.identity is enrollment.identity

    run_in_reactor(scenario())


def test_connection_of_an_idle_mac_that_the_server_closes_is_forgotten(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            contexts = running.environment.contexts
            client = await idle_with_open_connection(running)
            connection = client._open.connection  # type: ignore[union-attr]
            connection._stream.connectionLost(Failure(ConnectionDone()))  # type: ignore[union-attr]
            assert client.is_idle
            assert not client.connected
            assert client._open is None
            assert contexts.open_connections == 0
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


@pytest.mark.parametrize("end", [lambda running: running.fleet.close(), lambda running: running.fleet.remove(0)])
def test_end_of_an_idle_mac_closes_its_connection(run_in_reactor: RunInReactor, end: Callable[[Stack], object]) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = await idle_with_open_connection(running)
            end(running)
            assert not client.connected
            assert running.environment.contexts.open_connections == 0

    run_in_reactor(scenario())


def test_mac_at_rest_on_an_open_connection_becomes_idle_after_a_while(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client, macs = running.fleet[0], running.fleet
            await running.command(client, "ProfileList")
            await running.until(lambda: client.open_session is None, "the session's end")
            assert macs.make_idle() == 1
            macs._at_rest[0] -= REST_SECONDS  # as if it had rested for so long
            client.wake()
            await running.until(lambda: client.open_session is None, "the session's end")
            macs.make_idle()
            assert not client.is_idle  # it had a session in the meantime
            macs._at_rest[0] -= REST_SECONDS
            assert macs.make_idle() == 1
            assert client.is_idle
            assert client.connected

    run_in_reactor(scenario())


@pytest.mark.parametrize(("share", "expected"), [(0.0, {False}), (0.5, {False, True}), (1.0, {True})])
def test_share_of_supervised_macs(share: float, expected: set[bool]) -> None:
    macs = Fleet(Population("lazy", 20), Stack(1).environment, FleetBehaviour(supervised=share))
    assert {client.device.supervised for client in macs} == expected
