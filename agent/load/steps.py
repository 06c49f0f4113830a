"""A job is a row of steps; in each, many Macs do the same thing. Whoever fails a step is left out of the next ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from twisted.internet.task import deferLater

from agent.errors import PeerError
from agent.load.concurrently import for_each
from agent.load.fleet import Fleet
from agent.load.progress import Progress
from agent.net.mdm_client import MDMClient
from agent.net.surroundings import Surroundings

MACS_AT_ONCE = 64  # so that connections are made as fast as both ends can, and none waits in a queue for long
RETRY_SECONDS = 1.0  # before the first retry of an enrolment; doubled before each further one
RETRY_LONGEST_SECONDS = 60.0
SETTLE_SECONDS = 5.0
LOOK_SECONDS = 0.02

Enrol = Callable[[MDMClient], Awaitable[None]]


class Job:
    """What every job has: the fleet, who watches, and which Macs are still good."""

    def __init__(self, fleet: Fleet, surroundings: Surroundings, progress: Progress) -> None:
        self.fleet = fleet
        self.around = surroundings
        self.progress = progress
        self.good = set(fleet.indexes)

    def still_good(self) -> list[MDMClient]:
        """The Macs that failed nothing so far."""
        return [client for client in self.fleet if client.index in self.good]

    async def step(
        self,
        name: str,
        clients: Iterable[MDMClient],
        work: Callable[[MDMClient], Awaitable[object]],
        *,
        at_once: int = MACS_AT_ONCE,
    ) -> None:
        """Do ``work`` for every client; a PeerError, which ``work`` has recorded, takes the Mac out of the rest."""
        clients = list(clients)
        self.progress.step(name, len(clients))

        async def one(client: MDMClient) -> None:
            try:
                await work(client)
            except PeerError:
                self.good.discard(client.index)
                self.progress.advance(name, failed=True)
            else:
                self.progress.advance(name)

        await for_each(clients, at_once, one)

    async def enrol_all(self, enrol: Enrol, rate: float | None, retries: int) -> None:
        """Enrol the fleet: ``rate`` Macs a second, or as fast as it goes; ``retries`` further tries for each Mac."""
        began = self.around.reactor.seconds()

        async def one(client: MDMClient) -> None:
            if rate is not None:
                due = began + client.index / rate
                await self.wait(max(0.0, due - self.around.reactor.seconds()))
            for attempt in range(retries + 1):
                try:
                    await enrol(client)
                    break
                except PeerError:
                    if attempt == retries:
                        raise
                    await self.wait(min(RETRY_LONGEST_SECONDS, RETRY_SECONDS * 2.0**attempt))

        at_once = MACS_AT_ONCE if rate is None else max(1, len(self.fleet))
        await self.step("Enrol", self.fleet, one, at_once=at_once)

    async def settle(self) -> None:
        """Let the sessions that are open come to their end, so that each leaves its record; not for long."""
        until = self.around.reactor.seconds() + SETTLE_SECONDS
        while self.around.reactor.seconds() < until:
            if not any(client.in_session for client in self.fleet.made()):
                return
            await self.wait(LOOK_SECONDS)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.around.reactor, seconds)  # type: ignore[arg-type]
