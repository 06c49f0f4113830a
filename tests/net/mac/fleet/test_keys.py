"""RSA keys: one for each Mac or a pool for all, generated ahead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

from conftest import RunInReactor
from twisted.internet import reactor
from twisted.internet.task import deferLater

from agent.net.mac.fleet import keys
from agent.net.mac.fleet.keys import KeyPool

BITS = 1024  # quick to make
OTHER_BITS = 1032
SECONDS = 60.0  # after which a key that should be there is not: far beyond what it takes


class Made:
    """A pool, how many keys it has made, and how long each wait for one was."""

    def __init__(self, pool: int | None) -> None:
        self.waits: list[float] = []
        self.keys = KeyPool(reactor, pool, processes=1, on_wait=self.waits.append)
        self.loaded = patch.object(keys, "_loaded", wraps=keys._loaded)  # called once for each key that is made
        self._loads = self.loaded.start()

    @property
    def count(self) -> int:
        """How many keys were made."""
        return int(self._loads.call_count)

    async def until(self, count: int) -> None:
        """Wait until so many are made."""
        for _ in range(int(SECONDS / 0.01)):
            if self.count >= count:
                return
            await deferLater(reactor, 0.01)
        raise AssertionError(f"{self.count} keys were made; {count} were expected")

    async def moduli(self, count: int, bits: int = BITS) -> list[int]:
        """Take so many keys."""
        taken = [self.keys.take(bits) for _ in range(count)]
        return [(await one).private_numbers().public_numbers.n for one in taken]


@asynccontextmanager
async def making(pool: int | None = None) -> AsyncIterator[Made]:
    made = Made(pool)
    try:
        yield made
    finally:
        made.keys.close()
        made.loaded.stop()


def test_every_mac_has_a_key_of_its_own(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making() as made:
            assert len(set(await made.moduli(3))) == 3
            assert (made.count, made.keys.reused) == (3, 0)

    run_in_reactor(scenario())


def test_the_keys_of_a_pool_go_round(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making(2) as made:
            made.keys.expect(5, BITS)
            moduli = await made.moduli(5)
            assert len(set(moduli)) == 2
            assert moduli[:2] == moduli[2:4]
            assert (made.count, made.keys.reused) == (2, 3)

    run_in_reactor(scenario())


def test_what_is_expected_is_made_before_anybody_asks(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making() as made:
            made.keys.expect(3, BITS)
            await made.until(3)
            taken = [made.keys.take(BITS) for _ in range(3)]
            assert all(one.called for one in taken)
            assert len({(await one).private_numbers().public_numbers.n for one in taken}) == 3
            assert made.count == 3  # one that nobody expected takes its time
            assert not made.keys.take(BITS).called
            await made.until(4)

    run_in_reactor(scenario())


def test_the_first_key_that_is_asked_for_says_how_long_the_others_will_be(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making() as made:
            made.keys.expect(3)
            assert len(await made.moduli(1)) == 1
            await made.until(3)
            other = await made.keys.take(OTHER_BITS)
            assert other.key_size == OTHER_BITS
            assert made.keys.take(BITS).called
            assert made.keys.take(BITS).called
            assert made.count == 4

    run_in_reactor(scenario())


def test_no_more_are_generated_ahead_than_the_bound(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making() as made:
            bound, keys.MAX_AHEAD = keys.MAX_AHEAD, 2
            try:
                made.keys.expect(5, BITS)
                await made.until(2)
                await deferLater(reactor, 0.1)
                assert made.count == 2
                assert len(set(await made.moduli(5))) == 5
                assert made.count == 5
            finally:
                keys.MAX_AHEAD = bound

    run_in_reactor(scenario())


def test_two_sizes_are_expected_side_by_side(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making() as made:
            made.keys.expect(1, BITS)
            made.keys.expect(2, OTHER_BITS)
            await made.keys.made_ahead()
            assert made.count == 3
            taken = [made.keys.take(bits) for bits in (OTHER_BITS, BITS, OTHER_BITS)]
            assert all(one.called for one in taken)
            assert [(await one).key_size for one in taken] == [OTHER_BITS, BITS, OTHER_BITS]
            assert (made.count, made.keys.waits, made.waits) == (3, 0, [])

    run_in_reactor(scenario())


def test_who_waits_for_a_key_is_counted_and_who_does_not_is_not(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with making() as made:
            made.keys.expect(1, BITS)
            await made.keys.made_ahead()
            assert made.keys.take(BITS).called
            assert (made.keys.waits, made.keys.waited_s) == (0, 0.0)
            waiting = made.keys.take(BITS)
            assert made.keys.waits == 1
            assert made.waits == []  # it goes on
            assert made.keys.waited_s > 0.0
            await waiting
            assert made.waits == [made.keys.waited_s]

    run_in_reactor(scenario())
