"""The Macs look for commands, woken by a push of the server or by themselves."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.load.phases.crew import NO_SERVER, NOT_ENROLLED, NOT_RUNNING, Crew
from agent.load.phases.pace import NotPossible
from agent.mdm.session import State
from agent.net.mdm_client import MDMClient
from agent.net.surroundings import Moment
from agent.servers.server import Server

STILL_IN_SESSION = "the Mac was still in the session before"


async def look(crew: Crew, index: int, due: Moment, seconds: float) -> None:
    """One Mac opens a session by itself; its time counts from ``due``. Raises PeerError as the session's failure."""
    client = _free(crew, index)
    ended = _session_end(crew, client, seconds)
    client.wake(due)
    await _good(ended)


async def look_when_pushed(crew: Crew, index: int, due: Moment, seconds: float) -> None:
    """The server is asked to push one Mac, which opens a session; ``delivery`` is the whole from ``due``."""
    if crew.server is None:
        raise NotPossible(NO_SERVER)
    client = _free(crew, index)
    facts = {"request_type": "push", "udid": client.device.mac.udid}
    ended = _session_end(crew, client, seconds)
    try:
        await _push(crew, crew.server, client, due, facts, seconds)
        await _good(ended)
    except PeerError as error:
        crew.around.record("delivery", index, due, error, facts)
        raise
    finally:
        ended.addErrback(lambda _: None).cancel()
    crew.around.record("delivery", index, due, None, facts)


def _free(crew: Crew, index: int) -> MDMClient:
    client = crew.mac(index)
    if client.device.enrolment is None:
        raise NotPossible(NOT_ENROLLED)
    if not client.device.running:
        raise NotPossible(NOT_RUNNING)
    if client.device.session.state is not State.CLOSED:
        raise NotPossible(STILL_IN_SESSION)
    return client


def _session_end(crew: Crew, client: MDMClient, seconds: float) -> Deferred[PeerError | None]:
    """Wait for it from now on: it may come before the server has answered whoever asked it to push."""
    return Deferred.fromCoroutine(crew.watcher.session_end(client.index, seconds))


async def _good(ended: Deferred[PeerError | None]) -> None:
    failure = await ended
    if failure is not None:
        raise failure


async def _push(
    crew: Crew, server: Server, client: MDMClient, due: Moment, facts: Mapping[str, str], seconds: float
) -> None:
    try:
        await crew.answer(server.push(facts["udid"]), seconds)
    except PeerError as error:
        crew.around.record("enqueue", client.index, due, error, facts)
        raise
    crew.around.record("enqueue", client.index, due, None, facts)
