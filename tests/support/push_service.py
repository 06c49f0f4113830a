"""Push in one process: the gateway and the desk of a stack's Macs, side by side."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from agent.errors import PeerError
from agent.lab.server import LabServer
from agent.load.gateway import APNsPlan, PushFront
from agent.net.apns.provider import PushFailed
from agent.net.mac.environment import Surroundings
from agent.net.mac.fleet import Fleet
from agent.net.mac.fleet_push import fleet_desk


class PushService:
    """Both halves in one process. ``counts`` is for the results."""

    def __init__(self, fleet: Fleet, surroundings: Surroundings, plan: APNsPlan, lab: LabServer | None) -> None:
        self._fleet = fleet
        self._around = surroundings
        self._lab = lab
        self._desk = fleet_desk(fleet, surroundings, plan.behaviour, began=surroundings.wall_clock())
        self._front = PushFront(surroundings.reactor, plan, self._desk, lab)

    @property
    def url(self) -> str:
        """Where a server pushes."""
        return self._front.url

    @property
    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return self._desk.counts

    def listen(self) -> None:
        """Open the gateway; with a lab, its provider. Raises OperatorError."""
        self._front.listen()
        self._desk.open()

    def push(self, udid: str) -> Deferred[str]:
        """Have the lab push one of its Macs: the apns-id, or PushFailed."""
        since = self._around.now()

        def failed(failure: Any) -> Any:
            if failure.check(PeerError) is not None:
                self._around.begin("push", self._fleet.of_udid(udid).index, since).end(failure.value)
            return failure

        if self._lab is None or self._lab.push is None:
            return fail(PushFailed("nobody here pushes: there is no lab, or the gateway is not open"))
        return self._lab.push.push(udid).addErrback(failed)

    def close(self) -> Deferred[None]:
        """Hang up, listen no longer; fires when the providers are gone."""
        return self._front.close().addCallback(lambda _: self._desk.close())
