"""The ``enroll`` phase."""

from __future__ import annotations

from agent.errors import PeerError
from agent.load.phases.context import NOT_RUNNING, OFFLINE, PhaseContext
from agent.load.phases.pace import NotPossible
from agent.measure.operations import Moment
from agent.net.timing import sleep

ENROLLING = "the Mac was enrolling already"
RETRY_SECONDS = 1.0  # before the first retry of an enrollment; doubled before each further one
RETRY_LONGEST_SECONDS = 60.0


async def enroll(context: PhaseContext, index: int, due: Moment, seconds: float) -> None:
    """Enroll one Mac, with up to ``server.retries`` retries. Raises PeerError if the last attempt fails.

    Each attempt polls a SCEP CA that answers PENDING for at most ``seconds``.
    """
    client = context.mac(index)
    if not client.device.running:
        raise NotPossible(NOT_RUNNING)
    if client.offline:
        raise NotPossible(OFFLINE)
    if client.pushes.enrolling:
        raise NotPossible(ENROLLING)
    for attempt in range(context.retries + 1):
        try:
            await context.enroll(client, due, seconds)
        except PeerError:
            if attempt == context.retries:
                raise
        else:
            return
        await sleep(context.environment.reactor, min(RETRY_LONGEST_SECONDS, RETRY_SECONDS * 2.0**attempt))
        due = context.environment.now()
