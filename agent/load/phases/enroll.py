"""The ``enroll`` phase."""

from __future__ import annotations

from agent.errors import CutShort, PeerError
from agent.load.phases.context import NOT_RUNNING, OFFLINE, PhaseContext
from agent.load.phases.pace import NotPossible
from agent.load.phases.progress import RESUMED
from agent.mdm.refusals import ServerRefused, is_temporary
from agent.measure.operations import Moment
from agent.net.timing import sleep

ENROLLING = "the Mac was enrolling already"
RETRY_SECONDS = 1.0  # before the first retry of an enrollment; doubled before each further one
RETRY_LONGEST_SECONDS = 60.0


async def enroll(context: PhaseContext, index: int, due: Moment, seconds: float) -> None:
    """Enroll one Mac, with up to ``server.retries`` retries. Raises PeerError if the last attempt fails.

    Each attempt polls a SCEP CA that answers PENDING for at most ``seconds``. Raises CutShort where it was the rest of
    an enrollment that an earlier process of a resumed run began.
    """
    client = context.mac(index)
    if not client.device.running:
        raise NotPossible(NOT_RUNNING)
    if client.offline:
        raise NotPossible(OFFLINE)
    if client.pushes.enrolling:
        raise NotPossible(ENROLLING)
    for attempt in range(context.retries + 1):
        goes_on = client.device.enrolling is not None  # an earlier process of a resumed run began it
        try:
            await (client.resume_enrollment(RESUMED) if goes_on else context.enroll(client, due, seconds))
        except PeerError as error:
            if goes_on and isinstance(error, ServerRefused) and not is_temporary(error.status):
                client.abandon_enrollment()
            if attempt == context.retries:
                raise
        else:
            if goes_on:
                raise CutShort(RESUMED)
            return
        await sleep(context.environment.reactor, min(RETRY_LONGEST_SECONDS, RETRY_SECONDS * 2.0**attempt))
        due = context.environment.now()
