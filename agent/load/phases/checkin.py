"""The ``checkin`` phase: Macs open sessions, after a push from the server or by themselves."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.load.phases.context import NO_SERVER, NOT_ENROLLED, NOT_RUNNING, OFFLINE, PhaseContext, Unanswered
from agent.load.phases.pace import NotPossible
from agent.load.phases.waits import SessionStuck
from agent.mdm.session import State
from agent.measure.operations import Moment, Operation
from agent.net.mac.client import MDMClient
from agent.servers.server import PushNotSent, Server

STILL_IN_SESSION = "the Mac was still in its last session"


async def look(context: PhaseContext, index: int, due: Moment, seconds: float) -> None:
    """One Mac opens a session by itself; its latency counts from ``due``. Raises PeerError if the session fails."""
    client = _free(context, index)
    ended = context.mac_waits.next_session(index)
    client.wake(due)
    await _session_end(context, client, seconds, due, ended=ended)


async def look_when_pushed(context: PhaseContext, index: int, due: Moment, seconds: float) -> None:
    """Ask the server to push one Mac, which opens a session; the operation ``delivery`` spans both, from ``due``."""
    if context.server is None:
        raise NotPossible(NO_SERVER)
    client = _free(context, index)
    facts = {"request_type": "push", "udid": client.device.mac.udid}
    with context.environment.begin("delivery", index, due, facts) as delivery:
        # Wait from now on: the session may end before the server has answered the request to push.
        ended = Deferred.fromCoroutine(_session_end(context, client, seconds, due, delivery))
        try:
            await _push(context, context.server, client, due, delivery, seconds)
            await ended
        finally:
            ended.addErrback(lambda _: None).cancel()


def _free(context: PhaseContext, index: int) -> MDMClient:
    client = context.mac(index)
    if client.device.enrollment is None:
        raise NotPossible(NOT_ENROLLED)
    if not client.device.running:
        raise NotPossible(NOT_RUNNING)
    if client.offline:
        raise NotPossible(OFFLINE)
    if client.device.session.state is not State.CLOSED:
        raise NotPossible(STILL_IN_SESSION)
    return client


async def _session_end(
    context: PhaseContext,
    client: MDMClient,
    seconds: float,
    due: Moment,
    delivery: Operation | None = None,
    ended: Deferred[PeerError | None] | None = None,
) -> None:
    """Wait for the end of the Mac's next session, and end ``delivery`` with it. Raises PeerError if it fails."""
    try:
        failure = await context.mac_waits.session_end(client.index, seconds, ended)
    except SessionStuck as error:
        context.mac_waits.overdue(client, seconds)
        raise error if delivery is None else await context.cause(client, due, error) from None
    if delivery is not None:
        delivery.end(failure)
    if failure is not None:
        raise failure


async def _push(
    context: PhaseContext, server: Server, client: MDMClient, due: Moment, delivery: Operation, seconds: float
) -> None:
    with context.environment.begin("enqueue", client.index, due, delivery.facts) as enqueue:
        try:
            await context.answer(server.push(client.device.mac.udid), seconds)
        except PushNotSent as error:  # the server handled the request, but APNs refused the push
            enqueue.end()
            raise await context.push_failed(client, due, error) from None
        except PeerError as error:
            if delivery.open or not isinstance(
                error, Unanswered
            ):  # else the server had pushed: the Mac had its session
                raise await context.cause(client, due, error) from None
