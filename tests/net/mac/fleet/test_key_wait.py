"""The wait for an RSA key is this machine's: the latency of an enrollment excludes it, and the record has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import RunInReactor
from msgspec import structs
from stack import Stack
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.net.mac.fleet.keys import KeyPool

KEY_SECONDS = 1000.0  # far beyond what an enrollment takes


class SkewedReactor:
    """The reactor, with a clock that a test can put forward; its timers do not see that."""

    def __init__(self) -> None:
        self.skew = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def seconds(self) -> float:
        """What the Macs read their times from."""
        return reactor.seconds() + self.skew


@asynccontextmanager
async def slow_keys() -> AsyncIterator[Stack]:
    """A lab and one Mac, not yet enrolled, for which the clock goes on by KEY_SECONDS while a key is made."""
    running = Stack(1, scep=True)
    skewed = SkewedReactor()
    structs.force_setattr(running.environment, "reactor", skewed)
    running.operations._clock = skewed
    keys = KeyPool(reactor, pool=1)  # whose child process makes the key, so that the Mac waits for it

    def taken(bits: int) -> Deferred[Any]:
        def made(key: Any) -> Any:
            skewed.skew += KEY_SECONDS
            return key

        return keys.take(bits).addCallback(made)

    running.keys.take = taken  # type: ignore[method-assign]
    running.server.listen()
    running.network.listen()
    try:
        yield running
    finally:
        running.fleet.close()
        running.network.close()
        keys.close()
        running.keys.close()
        await running.server.close()


def test_the_latency_of_an_enrollment_leaves_the_wait_for_its_key_out(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with slow_keys() as running:
            await running.enroll(running.fleet[0])
            (enrolled,) = [each for each in running.exchanges if each.operation == "enroll"]
            assert enrolled.failure is None
            assert enrolled.key_wait >= KEY_SECONDS
            assert 0.0 < enrolled.seconds < KEY_SECONDS

    run_in_reactor(scenario())


def test_so_does_that_of_one_that_fails_after_it(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with slow_keys() as running:
            running.server._scep.new_challenge = lambda: "another"  # type: ignore[union-attr, method-assign]
            with pytest.raises(PeerError):
                await running.enroll(running.fleet[0])
            (failed,) = [each for each in running.exchanges if each.operation == "enroll"]
            assert failed.failure is not None
            assert failed.key_wait >= KEY_SECONDS
            assert 0.0 < failed.seconds < KEY_SECONDS

    run_in_reactor(scenario())
