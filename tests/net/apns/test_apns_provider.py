"""Our provider against our gateway: refusals, broken connections, an unavailable gateway, GOAWAY."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from apns_gateways import (
    AUTHORITY,
    HOST,
    POPULATION,
    TOPIC,
    RunningGateway,
    provider_identity,
    push_rule,
    running_gateway,
)
from conftest import RunInReactor
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from agent.faults.rules import Rule
from agent.net.apns.provider import TRIES, APNsProvider, PushFailed
from agent.net.transport.tls import TLSContexts
from agent.push.broker import Presence


@asynccontextmanager
async def provider_and_gateway(
    folder: Path, *rules: Rule, **settings: Any
) -> AsyncIterator[tuple[APNsProvider, RunningGateway]]:
    """Both, connected by TLS."""
    async with running_gateway(folder, rules=rules, **settings) as running:
        provider = APNsProvider(
            reactor,  # type: ignore[arg-type]
            TLSContexts(),
            (HOST, running.gateway.port),
            (AUTHORITY.certificate,),
            provider_identity(),
            retry_first=0.01,
        )
        try:
            yield provider, running
        finally:
            provider.close()


def push(provider: APNsProvider, index: int = 0) -> Any:
    """Wake a Mac."""
    return provider.push(POPULATION[index].push_token, POPULATION[index].push_magic, TOPIC)


def test_pushes_share_a_connection_and_have_their_own_ids(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with provider_and_gateway(tmp_path) as (provider, running):
            ids = await gatherResults([push(provider, number % 10) for number in range(1100)])  # more than 1000 streams
            assert len(set(ids)) == 1100
            assert sorted(ids) == sorted(notification.apns_id for notification in running.reached)

    run_in_reactor(scenario())


TEMPORARY = [
    {"do": "refuse", "reason": "TooManyRequests"},
    {"do": "refuse", "reason": "InternalServerError"},
    {"do": "refuse"},
    {"do": "drop"},
]


@pytest.mark.parametrize("rule", [push_rule(times=1, macs=("0-2",), **keys) for keys in TEMPORARY])
def test_temporary_refusal_is_retried_with_the_same_id(
    run_in_reactor: RunInReactor, tmp_path: Path, rule: Rule
) -> None:
    async def scenario() -> None:
        async with provider_and_gateway(tmp_path, rule) as (provider, running):
            ids = await gatherResults([push(provider, index) for index in range(5)])
            reached = [notification.apns_id for notification in running.reached]
            assert set(ids) == set(reached)
            assert rule.do == "drop" or len(reached) == 5  # what was lost with a connection is pushed once more
            counts = running.counts
            assert sum(counts["refused"].values()) + counts["broken"] == 3

    run_in_reactor(scenario())


def test_unreachable_gateway_is_retried(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with provider_and_gateway(tmp_path, push_rule("away", until=0.1)) as (provider, running):
            await push(provider)
            await push(provider)
            assert running.counts["delivered"] >= 2

    run_in_reactor(scenario())


def test_permanent_refusal_is_an_error_with_status_and_reason(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with provider_and_gateway(tmp_path) as (provider, running):
            running.macs.standing[0] = Presence.LEFT
            with pytest.raises(PushFailed, match="410 Unregistered") as caught:
                await push(provider)
            assert (caught.value.status, caught.value.reason) == (410, "Unregistered")
            await push(provider, 1)  # over the same connection

    run_in_reactor(scenario())


def test_temporary_refusals_are_retried_for_a_limited_time(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with provider_and_gateway(tmp_path, push_rule("refuse")) as (provider, running):
            with pytest.raises(PushFailed, match=f"503 ServiceUnavailable .{TRIES} tries"):
                await push(provider)
            assert running.counts["refused"] == {"ServiceUnavailable": TRIES}

    run_in_reactor(scenario())


def test_push_after_goaway_opens_a_new_connection(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with provider_and_gateway(tmp_path) as (provider, running):
            await push(provider)
            port = running.gateway.port
            await running.gateway.close()
            again = push(provider)
            running.gateway.listen(HOST, port)
            await again
            assert [notification.index for notification in running.reached] == [0, 0]

    run_in_reactor(scenario())


def test_gateway_with_an_untrusted_certificate_gets_no_push(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            provider = APNsProvider(
                reactor,  # type: ignore[arg-type]
                TLSContexts(),
                (HOST, running.gateway.port),
                (),  # trusts nobody
                provider_identity(),
                retry_first=0.001,
            )
            with pytest.raises(PushFailed, match="does not lead to a trusted CA"):
                await push(provider)
            provider.close()
            assert running.counts["accepted"] == 0

    run_in_reactor(scenario())
