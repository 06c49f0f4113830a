"""Push between a lab, its gateway and real Macs, over sockets: which Macs open a session, and what stays stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import RunInReactor
from push_service import PushService
from stack import SECONDS, Stack, stack
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from agent.errors import PeerError
from agent.load.conductor.gateway import APNsPlan
from agent.lom.link import LinkRequest
from agent.lom.requests import PowerRequest
from agent.net.apns.provider import PushFailed
from agent.net.mac.client import MDMClient
from agent.push.broker import Presence


@asynccontextmanager
async def pushed(devices: int = 1, *, scep: bool = False) -> AsyncIterator[tuple[Stack, PushService]]:
    """A stack with a gateway, by which the lab wakes its Macs."""
    async with stack(devices, scep=scep) as running:
        service = PushService(running.fleet, running.environment, APNsPlan(), running.server)
        service.listen()
        try:
            yield running, service
        finally:
            await service.close()


def queue(running: Stack, client: MDMClient, request_type: str = "ProfileList") -> Deferred[Mapping[str, Any]]:
    """Queue a command without a push; returns its result."""
    arrived: Deferred[Mapping[str, Any]] = Deferred()
    running.lab.enqueue(running.udid(client), {"RequestType": request_type}, arrived.callback)
    return arrived.addTimeout(SECONDS, reactor)  # type: ignore[arg-type]


def switch(client: MDMClient, request: PowerRequest) -> None:
    """As its Controller would."""
    version = client.device.mac.lom_protocol_version
    client.receive_lom_request(LinkRequest(request.name, client.device.mac.dns_name, request, version), "controller")


def test_push_starts_a_session_of_its_mac_only(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with pushed(3) as (running, service):
            results = [queue(running, client) for client in running.fleet]
            await service.push(running.udid(running.fleet[1]))
            assert (await results[1])["Status"] == "Acknowledged"
            assert {udid for udid, _connection in running.reports} == {running.udid(running.fleet[1])}
            (exchange,) = [exchange for exchange in running.exchanges if exchange.operation == "push"]
            assert (exchange.device, exchange.failure) == (1, None)
            for client in running.fleet:
                client.wake()
            for result in (results[0], results[2]):
                await result

    run_in_reactor(scenario())


def test_push_during_a_session_makes_it_poll_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with pushed() as (running, service):
            client = running.fleet[0]
            results: list[Deferred[Mapping[str, Any]]] = []
            pushes: list[Deferred[str]] = []

            def more() -> None:
                results.append(queue(running, client))
                pushes.append(service.push(running.udid(client)))

            def reported(_udid: str, _connection: int) -> None:
                if len(results) < 5:  # the lab's answer is on its way, and just then it has a command
                    reactor.callLater(0, more)

            running.lab.on_report = reported
            await service.push(running.udid(client))
            await running.until(lambda: len(results) >= 5 and all(result.called for result in results), "five results")
            await gatherResults(pushes)
            assert not running.lab.macs[running.udid(client)].queue
            assert service.counts["delivered"] == 1 + len(pushes)

    run_in_reactor(scenario())


def test_newest_push_is_delivered_after_power_on(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with pushed() as (running, service):
            client = running.fleet[0]
            switch(client, PowerRequest.OFF)
            ids = [await service.push(running.udid(client)) for _ in range(3)]
            assert {**service.counts, "accepted": 3} == {**service.counts, "stored": 3, "replaced": 2, "waiting": 1}
            assert client.pushes.presence is Presence.OFFLINE
            switch(client, PowerRequest.ON)
            result = await queue(running, client)
            assert result["Status"] == "Acknowledged"
            assert (service.counts["delivered"], service.counts["waiting"]) == (1, 0)
            await running.until(
                lambda: [each.facts["apns_id"] for each in running.exchanges if each.operation == "push"] == ids[2:],
                "the newest push is the one that is timed",
            )

    run_in_reactor(scenario())


def test_unenrolled_mac_is_410_until_it_enrolls_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with pushed() as (running, service):
            client = running.fleet[0]
            udid = running.udid(client)
            enrolled = running.lab.macs[udid]
            identifier = next(iter(client.device.profiles)).identifier
            await running.command(client, "RemoveProfile", Identifier=identifier)
            await running.until(lambda: udid not in running.lab.macs, "CheckOut")
            running.lab.macs[udid] = enrolled  # a server that has missed it
            with pytest.raises(PushFailed, match="410 Unregistered"):
                await service.push(udid)
            assert running.failures("push") == ["push_failed"]
            await running.enroll(client)
            result = queue(running, client)
            await service.push(udid)
            assert (await result)["Status"] == "Acknowledged"

    run_in_reactor(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_push_during_reenrollment_is_delivered_afterwards(run_in_reactor: RunInReactor, fails: bool) -> None:
    async def scenario() -> None:
        async with pushed(scep=True) as (running, service):
            client = running.fleet[0]
            enrolled = running.lab.macs[running.udid(client)]
            profile = running.server.enrollment_profile()
            take = running.keys.take

            async def take_meanwhile(size: int) -> Any:  # the Mac has left its old enrollment, and makes a key
                running.lab.macs[running.udid(client)] = enrolled
                await service.push(running.udid(client))
                waiting.append(service.counts["waiting"])
                return await take(size)

            async def fetch() -> bytes:
                return profile

            waiting: list[int] = []
            running.keys.take = take_meanwhile  # type: ignore[method-assign]
            if fails:
                running.server._scep._unused.clear()  # type: ignore[union-attr]
                with pytest.raises(PeerError, match="challenge"):
                    await client.enroll(fetch)
            else:
                await client.enroll(fetch)
            assert waiting == [1]
            assert (service.counts["delivered"], service.counts["waiting"]) == (1, 0)
            await running.until(lambda: len(running.reports) >= 1, "the session that the push opens")

    run_in_reactor(scenario())


def test_push_with_an_old_pushmagic_is_ignored(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with pushed() as (running, service):
            udid = running.udid(running.fleet[0])
            running.lab.macs[udid].push_magic = "of another time"
            await service.push(udid)
            assert (service.counts["delivered"], service.counts["ignored"]) == (0, 1)
            assert running.reports == []

    run_in_reactor(scenario())


def test_push_fails_if_the_server_is_unreachable(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with pushed() as (running, service):
            client = running.fleet[0]
            await running.server.close()
            await service.push(running.udid(client))
            await running.until(lambda: running.failures("push") == ["connect"], "the push fails as the session does")

    run_in_reactor(scenario())
