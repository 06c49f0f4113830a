"""Push in one process: the gateway and the desk of a stack's Macs, side by side."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from agent.errors import PeerError
from agent.lab.server import LabServer
from agent.load.gateway import APNsPlan, PushGateway
from agent.net.apns.provider import PushFailed
from agent.net.mac.environment import Environment
from agent.net.mac.fleet import Fleet
from agent.net.mac.fleet_push import fleet_push_endpoint


class PushService:
    """Both halves in one process. ``counts`` is for the results."""

    def __init__(self, fleet: Fleet, environment: Environment, plan: APNsPlan, lab: LabServer | None) -> None:
        self._fleet = fleet
        self._environment = environment
        self._lab = lab
        self._push_endpoint = fleet_push_endpoint(fleet, environment, plan.behaviour, began=environment.wall_clock())
        self._gateway = PushGateway(environment.reactor, plan, self._push_endpoint, lab)

    @property
    def url(self) -> str:
        """Where a server pushes."""
        return self._gateway.url

    @property
    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return self._push_endpoint.counts

    def listen(self) -> None:
        """Open the gateway; with a lab, its provider. Raises OperatorError."""
        self._gateway.listen()
        self._push_endpoint.open()

    def push(self, udid: str) -> Deferred[str]:
        """Have the lab push one of its Macs: the apns-id, or PushFailed."""
        since = self._environment.now()

        def failed(failure: Any) -> Any:
            if failure.check(PeerError) is not None:
                self._environment.begin("push", self._fleet.of_udid(udid).index, since).end(failure.value)
            return failure

        if self._lab is None or self._lab.push is None:
            return fail(PushFailed("nobody here pushes: there is no lab, or the gateway is not open"))
        return self._lab.push.push(udid).addErrback(failed)

    def close(self) -> Deferred[None]:
        """Hang up, listen no longer; fires when the providers are gone."""
        return self._gateway.close().addCallback(lambda _: self._push_endpoint.close())
