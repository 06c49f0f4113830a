"""The job against a server that is not ours: enrol the fleet there, and let its Macs talk to it.

Nobody here can queue a command; the operator, or the server by itself, does. With the push gateway the Macs wait for
the server's pushes; without it each looks for commands once after it enrolled, and then again and again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.errors import PeerError
from agent.load.fleet import Fleet
from agent.load.progress import Progress
from agent.load.steps import LOOK_SECONDS, Job
from agent.mdm.session import State
from agent.net.mdm_client import MDMClient
from agent.net.surroundings import Surroundings

SESSION_SECONDS = 300.0  # how long the job waits for a Mac's session to end


class SessionStuck(PeerError):
    """A Mac's session with the server did not come to its end."""

    kind = "session_stuck"


class ServerJob:
    """Enrol, look for commands, stay. ``run`` is a coroutine for Twisted's Deferred."""

    def __init__(
        self,
        fleet: Fleet,
        surroundings: Surroundings,
        progress: Progress,
        *,
        enrol: Callable[[MDMClient], Awaitable[None]],
        rate: float | None,
        retries: int,
        stay: float,
        poll: float | None,
        pushed: bool = False,
    ) -> None:
        self._job = Job(fleet, surroundings, progress)
        self._enrol = enrol
        self._rate = rate
        self._retries = retries
        self._stay = stay
        self._poll = poll
        self._pushed = pushed

    async def run(self) -> None:
        """Every step, one after another."""
        job = self._job
        await job.enrol_all(self._enrol, self._rate, self._retries)
        if not self._pushed:
            await job.step("First session", job.still_good(), self._session)
        if self._stay > 0 and self._poll is None:
            await job.wait(self._stay)
        elif self._stay > 0:
            await job.step("Stay", job.still_good(), self._stay_and_poll, at_once=max(1, len(job.fleet)))
        await job.settle()

    async def _session(self, client: MDMClient) -> None:
        """One session from its begin to its end."""
        client.wake()
        waited = 0.0
        while client.device.session.state is not State.CLOSED:
            await self._job.wait(LOOK_SECONDS)
            waited += LOOK_SECONDS
            if waited >= SESSION_SECONDS:
                raise SessionStuck(f"the session did not end within {SESSION_SECONDS:g} s")

    async def _stay_and_poll(self, client: MDMClient) -> None:
        """Look for commands every ``poll`` seconds, spread over that time, until ``stay`` seconds are over."""
        job, poll = self._job, self._poll or self._stay
        until = job.around.reactor.seconds() + self._stay
        pause = poll * (client.index + 1) / (len(job.fleet) + 1)
        while (left := until - job.around.reactor.seconds()) > 0:
            await job.wait(min(pause, left))
            if pause <= left:
                client.wake()
            pause = poll
