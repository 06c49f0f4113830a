"""The lab's API as a load run uses it: a real lab, a real gateway, real Macs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from apns_gateways import push_rule
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from push_service import PushService
from stack import Stack, stack

from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.lab.mdm.core import MAX_RESULTS
from agent.lab.web import api
from agent.load.conductor.gateway import APNsPlan
from agent.servers.configs import LabConfig, Trust
from agent.servers.opening import open_server
from agent.servers.server import DDMServer, PushNotSent, Server, StatusRefused

UUID = "0A1B2C3D-0000-4000-8000-000000000001"
COMMAND = {"RequestType": "ProfileList"}


@asynccontextmanager
async def asked(*rules: Rule, gateway: bool = True, token: str = "", push: bool = True) -> AsyncIterator[
    tuple[Stack, Server]
]:  # fmt: skip
    """A lab with one Mac, and its API; ``gateway`` is whether it can push, ``rules`` are its faults."""
    faults = Faults()
    for rule in rules:
        faults.add(rule, 0.0)
    async with stack(1, faults=faults) as running:
        service = PushService(running.fleet, running.environment, APNsPlan(), running.server)
        if gateway:
            service.listen()
        anchor = running.server.authorities.anchor.public_bytes(Encoding.PEM).decode()
        config = LabConfig(running.server.url, token or running.server.token, Trust(anchor, system=False), push=push)
        server = open_server(
            config, running.environment.reactor, running.environment.resolver, lambda _udid: running.fleet[0].device.mac
        )
        try:
            yield running, server
        finally:
            server.close()
            await service.close()


def udid(running: Stack) -> str:
    """The Mac's."""
    return running.udid(running.fleet[0])


async def result(running: Stack, command_uuid: str = UUID) -> None:
    """Wait until the Mac has answered."""
    await running.until(lambda: command_uuid in running.lab.macs[udid(running)].results, "the command's result")
    assert running.lab.macs[udid(running)].results[command_uuid].status == "Acknowledged"


def test_queued_command_is_followed_by_a_push(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked() as (running, server):
            assert server.pushes_on_enqueue
            await server.enqueue(udid(running), UUID, COMMAND)
            await result(running)
            assert running.failures("push") == []

    run_in_reactor(scenario())


def test_command_queued_without_push_waits_for_one(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked(push=False) as (running, server):
            assert not server.pushes_on_enqueue
            await server.enqueue(udid(running), UUID, COMMAND)
            assert not running.reports
            await server.push(udid(running))
            await result(running)

    run_in_reactor(scenario())


def test_lab_without_push_queues_the_command(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked(gateway=False) as (running, server):
            await server.enqueue(udid(running), UUID, COMMAND)
            with pytest.raises(StatusRefused, match=r"409.*no way to push"):
                await server.push(udid(running))
            running.fleet[0].wake()
            await result(running)

    run_in_reactor(scenario())


def test_lab_queues_declarative_management_and_the_mac_fetches_the_declarations(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked() as (running, server):
            assert isinstance(server, DDMServer)
            await result(running, await server.declare(udid(running)))
            mac = running.lab.macs[udid(running)]
            await running.until(lambda: bool(mac.status_report), "the status report")
            reported = json.loads(mac.status_report)["StatusItems"]["management"]["declarations"]
            assert {key: len(found) for key, found in reported.items() if found} == {
                "activations": 1, "configurations": 1,
            }  # fmt: skip

    run_in_reactor(scenario())


def test_lab_api_errors_raise_their_kind(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked(gateway=False) as (running, server):
            await server.enqueue(udid(running), UUID, COMMAND)
            for command_uuid, words in ((UUID, "409"), ("", "400"), ("x" * 101, "400"), ("a\nb", "400")):
                with pytest.raises(StatusRefused, match=words):
                    await server.enqueue(udid(running), command_uuid, COMMAND)
            with pytest.raises(StatusRefused, match="400"):
                await server.enqueue(udid(running), "other", {"NoRequestType": 1})
            with pytest.raises(StatusRefused, match="404"):
                await server.enqueue("nobody/../..", "other", COMMAND)
            with pytest.raises(StatusRefused, match="404"):
                await server.push("nobody")
            running.fleet[0].wake()
            await result(running)
            with pytest.raises(StatusRefused, match="409"):  # its result is still there
                await server.enqueue(udid(running), UUID, COMMAND)
        async with asked(gateway=False, token="wrong-token") as (running, server):
            with pytest.raises(StatusRefused, match="401") as caught:
                await server.enqueue(udid(running), UUID, COMMAND)
            assert "wrong-token" not in str(caught.value)

    run_in_reactor(scenario())


def test_push_outcome_of_apns_is_returned(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked(push_rule("refuse", reason="BadDeviceToken", times=2)) as (running, server):
            with pytest.raises(PushNotSent, match=r"the command is queued, but.*400 BadDeviceToken"):
                await server.enqueue(udid(running), UUID, COMMAND)
            with pytest.raises(PushNotSent, match="BadDeviceToken"):
                await server.push(udid(running))
            await server.push(udid(running))
            await result(running)

    run_in_reactor(scenario())


def test_wait_for_apns_is_limited(run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PUSH_SECONDS", 0.05)

    async def scenario() -> None:
        async with asked(push_rule("refuse")) as (running, server):  # the provider goes on trying
            await server.enqueue(udid(running), UUID, COMMAND)
            await server.push(udid(running))
            assert UUID in running.lab.macs[udid(running)].queue
        async with asked(push_rule("refuse", times=1)) as (
            running,
            server,
        ):  # the provider tries again after half a second
            await server.enqueue(udid(running), UUID, COMMAND)  # it is queued, and the push may still be taken
            await server.push(udid(running))
            await result(running)

    run_in_reactor(scenario())


def test_closed_client_gets_no_answer(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked(push_rule("refuse", times=1)) as (running, server):
            asking = server.enqueue(udid(running), UUID, COMMAND)
            await running.until(lambda: UUID in running.lab.macs[udid(running)].queue, "the command is queued")
            server.close()
            with pytest.raises(Exception, match="closed"):
                await asking
            await result(running)

    run_in_reactor(scenario())


def test_only_the_newest_results_are_kept(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with asked() as (running, server):
            for number in range(MAX_RESULTS + 2):
                await server.enqueue(udid(running), f"c{number}", COMMAND)
            await result(running, f"c{MAX_RESULTS + 1}")
            assert list(running.lab.macs[udid(running)].results) == [f"c{each}" for each in range(2, MAX_RESULTS + 2)]

    run_in_reactor(scenario())
