"""Many things at once, but not all: a fixed number of workers take them from one row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

ItemT = TypeVar("ItemT")


async def for_each(items: Iterable[ItemT], at_once: int, work: Callable[[ItemT], Awaitable[None]]) -> None:
    """Do ``work`` for every item, ``at_once`` at a time.

    Where one raises, or where this is cancelled, the others are cancelled too and the error is raised.
    """
    row = iter(items)

    async def worker() -> None:
        for item in row:
            await work(item)

    workers = [Deferred.fromCoroutine(worker()) for _ in range(at_once)]
    try:
        await gatherResults(workers, consumeErrors=True)
    except FirstError as first:
        for deferred in workers:
            deferred.cancel()
        first.subFailure.raiseException()
