"""The push gateway of a stage: that of `agent.load.conductor.gateway`, with a record of each push."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from agent.conform.trace.recorder import Recorder, RecordingRouter
from agent.lab.web.server import LabServer
from agent.load.conductor.gateway import APNsPlan, PushGateway
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.router import PushRouter
from agent.push.wire import RoutedPush
from agent.service.fleet import FleetService


class StageGateway:
    """Routes each push by its device token to the Mac. With a lab, the lab pushes through it."""

    def __init__(
        self, reactor: Any, service: FleetService, recorder: Recorder, plan: APNsPlan, lab: LabServer | None
    ) -> None:
        self._service = service
        groups = service.groups
        self._router = PushRouter(
            reactor, groups, groups.first_of, self._send, service.parts.wall_clock, PushBehaviour()
        )
        recording = RecordingRouter(self._router, recorder)
        self._gateway = PushGateway(reactor, plan, recording, lab, service.faults, service.parts.clock)

    @property
    def url(self) -> str:
        """The URL that a server pushes to, after ``listen``."""
        return self._gateway.url

    def listen(self) -> None:
        """Listen. Raises OperatorError."""
        self._gateway.listen()

    async def close(self) -> None:
        """Stop, with GOAWAY."""
        self._router.close()
        closing: Deferred[None] = self._gateway.close()
        await closing

    def _send(self, first: int, push: RoutedPush) -> None:
        group = self._service.groups.with_first(first)
        if group is not None and group.push_endpoint is not None:
            self._router.answered(first, group.push_endpoint.receive(push))
