"""A Mac's power over real sockets: what its server and its Controllers see of a shutdown, a restart, a power cut."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from conftest import RunInReactor
from lom_parties import device
from OpenSSL import SSL
from scripted_mdm import ScriptedMDM, closing, scripted_mdm, udid
from servers import Talk, answer, until
from stack import Stack, stack
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.fleet.durations import Constant
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.power import Power, PowerChoices
from agent.lom.requests import PowerRequest, RelayItem
from agent.mdm.session import State
from agent.mdm.timing import Timing
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.profiles.making import lom_profile

ON, OFF, RESET = PowerRequest
SOON = FleetBehaviour(boot=Constant(0.02), shutdown=Constant(0.02), timing=Timing(retry_first=0.02, retry_longest=0.05))
SLOW_SHUTDOWN = FleetBehaviour(boot=Constant(0.02), shutdown=Constant(3600.0))
OUTSIDE = "a Controller outside"


def lom(client: MDMClient, request: PowerRequest, uuid: str = "", by: str = OUTSIDE) -> LinkAnswer:
    """What the Mac's LOM end answers."""
    return client.receive_lom_request(LinkRequest(uuid or request.value, client.device.mac.dns_name, request), by)


def is_in(client: MDMClient, state: Power) -> Any:
    return until(lambda: client.device.power.state is state)


# What the server sees


def taken_and_watched(mdm: ScriptedMDM, ends: list[str]) -> Any:
    """Take the victim's result, end the session, and see how the connection ends."""

    def act(talk: Talk) -> None:
        mdm.commands[mdm.victim].popleft()
        talk.send(answer(200))
        try:
            talk.tls.recv(1)
        except SSL.ZeroReturnError:
            ends.append("in good order")
        except SSL.Error:
            ends.append("broken off")

    return act


@pytest.mark.parametrize(
    ("request_type", "after"), [("RestartDevice", Power.ON), ("ShutDownDevice", Power.OFF), ("DeviceLock", Power.ON)]
)
def test_macos_closes_its_connection_in_good_order(
    run_in_reactor: RunInReactor, request_type: str, after: Power
) -> None:
    ends: list[str] = []
    with scripted_mdm(SOON) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.enqueue(victim, "down", {"RequestType": request_type, "PIN": "123456"})
                mdm.instead("Acknowledged", taken_and_watched(mdm, ends))
                victim.wake()
                await until(lambda: ends != [])
                await is_in(victim, after)
                assert victim.boots == (after is Power.ON)
                if after is Power.ON:
                    await mdm.check_all_work()

        run_in_reactor(scenario())
    assert ends == ["in good order"]


@pytest.mark.parametrize("request_type", [OFF, RESET])
def test_a_power_cut_breaks_the_connection_off_in_mid_answer(
    run_in_reactor: RunInReactor, request_type: PowerRequest
) -> None:
    ends: list[str] = []

    def act(talk: Talk) -> None:
        talk.send(answer(200, b"x" * 1000)[:200])  # half an answer
        reactor.callFromThread(lom, victim, request_type)
        try:
            talk.tls.recv(1)
        except SSL.ZeroReturnError:
            ends.append("in good order")
        except SSL.Error:
            ends.append("broken off")

    with scripted_mdm(SOON) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", act)
                victim.wake()
                await until(lambda: ends != [])
                await is_in(victim, Power.ON if request_type is RESET else Power.OFF)
                lom(victim, ON)
                await is_in(victim, Power.ON)
                await mdm.check_all_work()

        run_in_reactor(scenario())
    assert ends == ["broken off"]


@pytest.mark.parametrize("request_type", [OFF, RESET])
def test_a_result_that_was_not_taken_outlasts_the_power_cut(
    run_in_reactor: RunInReactor, request_type: PowerRequest
) -> None:
    def act(talk: Talk) -> None:
        """The result came, and no answer leaves."""
        reactor.callFromThread(lom, victim, request_type)
        talk.wait_for_end()

    with scripted_mdm(SOON) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.enqueue(victim, "kept")
                mdm.instead("Acknowledged", act)
                victim.wake()
                await until(lambda: victim.device.power.state is not Power.ON)
                assert victim.device.session.owes_result
                lom(victim, ON)
                await until(lambda: mdm.endings("command", victim) == ["good"])
                assert [what for who, what in mdm.seen if who == udid(victim)][-2:] == ["Acknowledged"] * 2
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert len(mdm.taken[udid(victim), "kept"]) == 1


def test_a_command_that_comes_with_the_answer_to_a_restart_is_carried_out_after_it(
    run_in_reactor: RunInReactor,
) -> None:
    with scripted_mdm(SOON) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.enqueue(victim, "restart", {"RequestType": "RestartDevice"})
                mdm.enqueue(victim, "next")
                victim.wake()
                await until(lambda: len(mdm.endings("command", victim)) == 2)
                assert victim.boots == 1
                assert [what for who, what in mdm.seen if who == udid(victim)][-3:] == [
                    "Acknowledged", "Idle", "Acknowledged"
                ]  # fmt: skip

        run_in_reactor(scenario())
        assert [len(mdm.taken[udid(victim), uuid]) for uuid in ("restart", "next")] == [1, 1]


@pytest.mark.parametrize(
    ("request_type", "state", "choices"),
    [
        (None, Power.SHUTTING_DOWN, PowerChoices()),
        (OFF, Power.OFF, PowerChoices()),
        (RESET, Power.ON, PowerChoices()),
        (ON, Power.SHUTTING_DOWN, PowerChoices()),
        (OFF, Power.SHUTTING_DOWN, PowerChoices(power_off_while_shutting_down="off-after")),
    ],
)
def test_a_mac_that_shuts_down_opens_no_session_and_hears_its_controllers(
    run_in_reactor: RunInReactor, request_type: PowerRequest | None, state: Power, choices: PowerChoices
) -> None:
    async def scenario() -> None:
        behaviour = FleetBehaviour(boot=SLOW_SHUTDOWN.boot, shutdown=SLOW_SHUTDOWN.shutdown, power=choices)
        async with stack(2, behaviour=behaviour) as running:
            client, other = running.fleet
            await running.command(client, "ShutDownDevice")
            await is_in(client, Power.SHUTTING_DOWN)
            reports = [report for report in running.reports if report[0] == udid(client)]
            client.wake()
            assert client.device.session.state is State.CLOSED
            await running.command(other, "ProfileList")
            assert [report for report in running.reports if report[0] == udid(client)] == reports
            if request_type is not None:
                assert lom(client, request_type) == LinkAnswer(request_type.value)
            await is_in(client, state)
            if state is Power.ON:
                await running.command(client, "ProfileList")

    run_in_reactor(scenario())


# A Mac and its own power


def item(client: MDMClient, request: PowerRequest, uuid: str) -> dict[str, Any]:
    mac = client.device.mac
    return {
        "DeviceRequestType": request.value,
        "DeviceRequestUUID": uuid,
        "DeviceDNSName": mac.dns_name,
        "PrimaryIPv6AddressList": list(mac.primary_ipv6),
        "SecondaryIPv6AddressList": list(mac.secondary_ipv6),
        "LOMProtocolVersion": 1,
    }


async def set_up(running: Stack) -> None:
    for client in running.fleet:
        name = client.device.mac.dns_name
        profile = lom_profile(running.server.authorities, name, device=True, controller=True)
        await running.command(client, "InstallProfile", Payload=profile)


async def switch(running: Stack, controller: MDMClient, client: MDMClient, request: PowerRequest) -> None:
    mac = client.device.mac
    wanted = RelayItem(f"{request.value} by another", mac.dns_name, request, mac.primary_ipv6, 1)
    (outcome,) = await running.network.relay(controller, [wanted])
    assert outcome.success, outcome.error


def test_a_controller_that_switches_itself_off_answers_first(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2, behaviour=SOON) as running:
            client, other = running.fleet
            await set_up(running)
            wanted = [item(client, OFF, "own"), item(other, RESET, "other")]
            result = await running.command(client, "LOMDeviceRequest", RequestList=wanted)
            assert [each["DeviceRequestSuccess"] for each in result["ResponseList"]] == [True, True]
            await is_in(client, Power.OFF)
            await running.until(lambda: other.boots == 1, "the other's boot")
            await switch(running, other, client, ON)
            await running.command(client, "ProfileList")
            done = [
                exchange.facts["request_type"]
                for exchange in running.exchanges
                if exchange.operation == "command" and exchange.device == client.index
            ]
            assert done[:2] == ["InstallProfile", "LOMDeviceRequest"]  # its result was delivered once
            assert client.device.power.state is Power.ON

    run_in_reactor(scenario())


def test_another_controllers_reset_meanwhile_is_at_once_and_loses_no_command(run_in_reactor: RunInReactor) -> None:
    """The Mac waits for a Device that does not answer; it is reset; its server offers it the command again."""
    silent = socket.create_server(("::1", 0), family=socket.AF_INET6)
    nobody = device(index=99, addresses=["fe80::99"])

    async def scenario() -> None:
        async with stack(2, behaviour=SOON) as running:
            client, other = running.fleet
            await set_up(running)
            running.network.add(nobody, "silent.lom.test", port=silent.getsockname()[1])
            await asked_meanwhile(running, client, other)

    async def asked_meanwhile(running: Stack, client: MDMClient, other: MDMClient) -> None:
        waiting = {**item(client, RESET, "silent"), "DeviceDNSName": "silent.lom.test"}
        waiting.update(PrimaryIPv6AddressList=["fe80::99"], SecondaryIPv6AddressList=[])
        arrived: Deferred[Any] = Deferred()
        command = {"RequestType": "LOMDeviceRequest", "RequestList": [item(client, OFF, "own"), waiting]}
        running.lab.enqueue(udid(client), command, arrived.callback)
        client.wake()
        await running.until(
            lambda: any(exchange.facts.get("request_uuid") == "own" for exchange in running.exchanges), "its own item"
        )
        assert client.device.power.state is Power.ON  # it has promised to go off, once its server has the result
        await switch(running, other, client, RESET)
        assert not arrived.called
        silent.close()
        result = await arrived
        assert [each["DeviceRequestSuccess"] for each in result["ResponseList"]] == [True, False]
        assert client.boots == 1
        await is_in(client, Power.OFF)

    run_in_reactor(scenario())


def test_the_same_request_over_two_links_is_carried_out_once(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2, behaviour=SOON) as running:
            client, other = running.fleet
            await set_up(running)
            await switch(running, other, client, RESET)
            await running.until(lambda: client.boots == 1, "a boot")
            await switch(running, other, client, RESET)
            assert client.device.power.state is Power.ON
            lom(client, RESET, "another")
            await running.until(lambda: client.boots == 2, "another boot")

    run_in_reactor(scenario())
