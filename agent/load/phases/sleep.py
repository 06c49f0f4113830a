"""Let time pass, on the reactor's clock."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from agent.net.reactor import Clock


async def sleep(clock: Clock, seconds: float) -> None:
    """Return after ``seconds``. Whoever cancels it leaves no timer behind."""
    over: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, over.callback, None)
    await over
