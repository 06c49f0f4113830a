"""The pushes of a run, in the conductor's process: the gateway, and the router to the shard that owns the Mac."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from agent.fleet.population import Population
from agent.lab.server import LabServer
from agent.load.gateway import APNsPlan, PushGateway
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer, RoutedPush

Send = Callable[[int, RoutedPush], object]


class PushSide:
    """The gateway of a run with ``plan``; a run without one has no pushes, and every method does nothing.

    ``first_macs`` has the index of the first Mac of each shard; ``send`` sends a push to a shard; ``first`` are
    the counts of the rules with ``first=`` in an earlier process of the run.
    """

    def __init__(
        self,
        reactor: Any,
        plan: APNsPlan | None,
        population: Population,
        first_macs: Sequence[int],
        send: Send,
        clock: RunClock,
        first: Mapping[int, int] | None = None,
    ) -> None:
        self._reactor = reactor
        self._plan = plan
        self._population = population
        self._first_macs = first_macs
        self._send = send
        self._clock = clock
        self._first = first
        self._router: PushRouter | None = None
        self._gateway: PushGateway | None = None

    @property
    def began(self) -> float:
        """The date from which the times of rules count; 0 without a gateway."""
        return 0.0 if self._router is None else self._router.began

    @property
    def behaviour(self) -> PushBehaviour | None:
        """How the shards' endpoints decide; None without a gateway."""
        return None if self._plan is None else self._plan.behaviour

    @property
    def counts(self) -> list[dict[str, Any]]:
        """The push counts of the router, if there is one."""
        return [] if self._router is None else [self._router.counts]

    @property
    def going_on(self) -> dict[str, Any]:
        """What another process goes on with: the port, and the counts of the rules with ``first=``."""
        url = self.url
        if self._router is None or url is None:
            return {}
        return {"apns port": urlsplit(url).port, "push first": self._router.first}

    @property
    def url(self) -> str | None:
        """The gateway's URL, once it is open."""
        return None if self._gateway is None else self._gateway.url

    def open(self, lab: LabServer | None) -> None:
        """Open the gateway, and let the lab push to it. Raises OperatorError."""
        plan = self._plan
        if plan is None:
            return
        self._router = PushRouter(
            self._reactor,
            self._population,
            self._shard_of,
            self._send,
            self._clock,
            plan.behaviour,
            elapsed=plan.elapsed,
            first=self._first,
        )
        self._gateway = PushGateway(self._reactor, plan, self._router, lab)
        self._gateway.listen()

    async def close(self) -> None:
        """Close the gateway; outstanding pushes are answered with 503."""
        if self._gateway is not None:
            await self._gateway.close()
        if self._router is not None:
            self._router.close()

    # What the shards send.

    def answered(self, shard: int, answer: RoutedAnswer) -> None:
        """A shard answers a push. Raises PushWireError for a push that it did not get."""
        if self._router is not None:
            self._router.answered(shard, answer)

    def own_refusal(self, index: int, since: float) -> OwnCause | None:
        """Why the gateway itself refused the last push to a Mac; None if it did not, or before ``since`` (a date)."""
        return None if self._router is None else self._router.own_refusal(index, since)

    def shard_gone(self, shard: int, cause: OwnCause) -> None:
        """A shard is lost, or has ended."""
        if self._router is not None:
            self._router.shard_gone(shard, cause)

    def _shard_of(self, index: int) -> int:
        return bisect_right(self._first_macs, index) - 1
