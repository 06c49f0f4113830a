"""Push in one process: the gateway, its router and the push endpoint of a stack's Macs."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from agent.errors import PeerError
from agent.faults.decisions import Faults
from agent.lab.web.server import LabServer
from agent.load.conductor.gateway import APNsPlan, PushGateway
from agent.net.apns.provider import PushFailed
from agent.net.apns.router import PushRouter
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.macs import Fleet
from agent.net.mac.fleet.push_endpoint import fleet_push_endpoint
from agent.push.counts import merge_push_counts
from agent.push.wire import RoutedPush


class PushService:
    """Both halves in one process. ``counts`` is for the results."""

    def __init__(self, fleet: Fleet, environment: Environment, plan: APNsPlan, lab: LabServer | None) -> None:
        self._fleet = fleet
        self._environment = environment
        self._lab = lab
        clock = environment.wall_clock
        endpoint = self._push_endpoint = fleet_push_endpoint(fleet, environment, plan.behaviour)

        def send(shard: int, push: RoutedPush) -> None:
            router.answered(shard, endpoint.receive(push))

        router = PushRouter(environment.reactor, fleet.population, lambda _index: 0, send, clock, plan.behaviour)
        self._router = router
        self._gateway = PushGateway(
            environment.reactor, plan, router, lab, environment.faults or Faults(), environment.clock
        )

    @property
    def url(self) -> str:
        """Where a server pushes."""
        return self._gateway.url

    @property
    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return merge_push_counts([self._push_endpoint.counts, self._router.counts])

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
        return self._gateway.close().addCallback(lambda _: self._closed())

    def _closed(self) -> None:
        self._router.close()
        self._push_endpoint.close()
