"""The pushes of a run, in the conductor's process: the gateway, and the router to the shard that owns the Mac."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agent.faults.decisions import Faults, RuleRecord
from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.lab.web.server import LabServer
from agent.load.conductor.gateway import APNsPlan, PushGateway
from agent.measure.summaries import RuleSummary
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock, Stalls
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer, RoutedPush

Send = Callable[[int, RoutedPush], object]


class PushSide:
    """The gateway of a run with ``plan``; a run without one has no pushes, and every method does nothing.

    ``first_macs`` has the index of the first Mac of each shard; ``send`` sends a push to a shard. ``on_stall`` gets the
    seconds in which the event loop of the gateway was blocked. Of ``rules``, those of the gateway as a whole are
    followed here, all others by the shards; ``records`` are those of an earlier process of the run, to go on with.
    """

    def __init__(
        self,
        reactor: Any,
        plan: APNsPlan | None,
        population: Population,
        first_macs: Sequence[int],
        send: Send,
        clock: RunClock,
        on_stall: Callable[[float], object],
        rules: Sequence[Rule] = (),
        records: Sequence[RuleRecord] = (),
    ) -> None:
        self._faults = Faults()
        self._rules = rules
        self._records = records
        self._reactor = reactor
        self._plan = plan
        self._population = population
        self._first_macs = first_macs
        self._send = send
        self._clock = clock
        self._stalls = Stalls(reactor, on_stall)
        self._router: PushRouter | None = None
        self._gateway: PushGateway | None = None

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
        """What another process goes on with: the port, and the rules with what they did to the gateway."""
        if self.url is None:
            return {}
        now = self._reactor.seconds()
        records = [self._faults.record(each.rule.id, now) for each in self._faults]
        return {"apns port": urlsplit(self.url).port, "gateway rules": msgspec.to_builtins(records)}

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
        )
        self._gateway = PushGateway(self._reactor, plan, self._router, lab, self._faults, self._reactor)
        self._gateway.listen()
        self._stalls.begin()

    def begin(self) -> None:
        """The run begins, or goes on: rules count their times from here."""
        now = self._reactor.seconds()
        for record in self._records:
            self._faults.restore(record, now)
        for rule in () if self._records else self._rules:
            self._faults.add(rule, now)

    @property
    def rule_counts(self) -> list[RuleSummary]:
        """What each fault rule did to the gateway."""
        return [RuleSummary(each.rule.id, each.matches, each.hits) for each in self._faults]

    async def close(self) -> None:
        """Close the gateway; outstanding pushes are answered with 503."""
        self._stalls.stop()
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
        """Why a Mac may lack a push since ``since`` (a date) by a fault of the gateway; None if it does not."""
        return None if self._router is None else self._router.own_refusal(index, since)

    def shard_gone(self, shard: int, cause: OwnCause) -> None:
        """A shard is lost, or has ended."""
        if self._router is not None:
            self._router.shard_gone(shard, cause)

    def _shard_of(self, index: int) -> int:
        return bisect_right(self._first_macs, index) - 1
