"""The ``power_cut`` phase: segments lose mains power and get it back; their Macs boot and open sessions at once."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from agent.load.phases.context import PhaseContext
from agent.load.phases.lom import all_of, returned, until_back
from agent.measure.operations import Moment
from agent.net.mac.client import MDMClient
from agent.net.timing import sleep


async def cut_power(context: PhaseContext, indexes: Sequence[int], due: Moment, away: float, seconds: float) -> None:
    """Cut the mains power of one segment at ``due`` for ``away`` seconds.

    Each of its Macs that was running and is enrolled records the operation ``return``, from the moment power returns.
    Raises PeerError if a Mac does not come back.
    """
    clients = [context.mac(index) for index in indexes]
    ran = [client for client in clients if client.device.running and client.device.enrollment is not None]
    for client in clients:
        client.cut_mains()
    try:
        await sleep(context.environment.reactor, max(0.0, due.ticks + away - context.environment.reactor.seconds()))
    finally:
        for client in clients:
            client.restore_mains()
    back = Moment(due.wall + away, due.ticks + away)
    waits = [Deferred.fromCoroutine(_back(context, client, back, seconds)) for client in ran]
    try:
        await all_of(waits)
    finally:
        for waiting in waits:
            waiting.addErrback(lambda _: None).cancel()


async def _back(context: PhaseContext, client: MDMClient, due: Moment, seconds: float) -> None:
    await returned(
        context, client, due, Deferred.fromCoroutine(until_back(context, client, due, client.boots, seconds))
    )
