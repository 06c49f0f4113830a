"""From the gateway to the process that owns the Mac: each request goes there as bytes, and its answer comes back.

The token says whose push it is. What is for none of the Macs is refused here, as a desk refuses it; everything else is
the desk's to decide. A desk that does not answer costs the provider a 503, never more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.net.timing import DelayedCall, Reactor
from agent.push.broker import Answer, Presence, PushBroker, Reply
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import Provider, PushPolicy, apns_id_of, token_of
from agent.push.rules import FirstPushes, Rule
from agent.push.wire import PushWireError, RoutedPush, decode_answer, encode_push

ANSWER_SECONDS = 5.0  # ours; a desk takes microseconds
MOST_OUTSTANDING = 16_384  # requests of at most 12 KiB each that wait for a desk


class Tokens(Protocol):
    """Whose push token it is; ``agent.fleet.population.Population`` knows."""

    def index_of_token(self, token: bytes) -> int | None:
        """The Mac's index, None where it is of no Mac."""


class _NoMacs:
    """A fleet of none: a broker over it refuses whatever comes."""

    def find(self, _token: bytes) -> int | None:
        return None

    def presence(self, _index: int) -> Presence:
        return Presence.UNKNOWN

    def topic(self, _index: int) -> str:
        return ""

    def left_at(self, _index: int) -> float:
        return 0.0


@dataclass(slots=True)
class _Outstanding:
    """A request that waits for its desk's answer. ``since`` is on the reactor's clock."""

    shard: int
    fields: list[tuple[str, str]]
    reply: Reply
    since: float
    spent: tuple[int, ...]


class PushRouter:
    """``shard_of`` tells which shard owns a Mac, ``send`` carries bytes to the desk of a shard and raises nothing: when
    a shard cannot be reached any more, ``shard_gone`` says so.

    ``rules`` are the desks' own: those for the first so many pushes are counted here, for all desks together.
    """

    def __init__(
        self,
        reactor: Reactor,
        tokens: Tokens,
        shard_of: Callable[[int], int],
        send: Callable[[int, bytes], object],
        *,
        policy: PushPolicy | None = None,
        rules: Sequence[Rule] = (),
        wall_clock: Callable[[], float] = time.time,
        patience: float = ANSWER_SECONDS,
        most: int = MOST_OUTSTANDING,
    ) -> None:
        self.began = wall_clock()
        self._reactor = reactor
        self._tokens = tokens
        self._shard_of = shard_of
        self._send = send
        self._nobody = PushBroker(_NoMacs(), policy=policy)
        self._first = FirstPushes(rules)
        self._wall_clock = wall_clock
        self._patience = patience
        self._most = most
        self._number = 0
        self._outstanding: dict[int, _Outstanding] = {}  # the oldest first
        self._gone: set[int] = set()
        self._timer: DelayedCall | None = None
        self._closed = False

    @property
    def counts(self) -> dict[str, Any]:
        """What was decided here; the desks have the rest."""
        return self._nobody.counts.as_json()

    @property
    def outstanding(self) -> int:
        """How many requests wait for their answer."""
        return len(self._outstanding)

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """See to it that ``reply`` is called, once, now or later."""
        now = self._wall_clock()
        token = token_of(fields)
        index = None if token is None else self._tokens.index_of_token(token)
        if index is None:
            reply(self._nobody.receive(fields, body, provider, now))
            return
        shard = self._shard_of(index)
        cause = self._cause(shard)
        if cause is not None:
            reply(self._unavailable(fields, cause))
            return
        self._number += 1
        spent = self._first.reserve(index, now - self.began)
        self._outstanding[self._number] = _Outstanding(shard, fields, reply, self._reactor.seconds(), spent)
        push = RoutedPush(self._number, now, fields, body, provider.topic, provider.certified, provider.fault, spent)
        if self._timer is None:
            self._timer = self._reactor.callLater(self._patience, self._look)
        self._send(shard, encode_push(push))

    def refuse(self, refused: PushRefused) -> Answer:
        """The answer to a request that was not even read."""
        return self._nobody.refuse(refused)

    def turned_away(self) -> None:
        """The gateway ended a connection because there were too many."""
        self._nobody.turned_away()

    def hand_out(self) -> None:
        """The desks do that by themselves."""

    def answered(self, shard: int, octets: bytes) -> None:
        """A desk's answer came; one that comes too late is no answer any more. Raises PushWireError."""
        answer = decode_answer(octets)
        outstanding = self._outstanding.get(answer.number)
        if outstanding is None:
            if answer.number > self._number:
                raise PushWireError(f"shard {shard} answers push {answer.number}, which nobody sent")
            return
        if outstanding.shard != shard:
            raise PushWireError(f"shard {shard} answers a push that went to shard {outstanding.shard}")
        del self._outstanding[answer.number]
        self._first.settle(outstanding.spent, answer.rule)
        outstanding.reply(answer.outcome)

    def shard_gone(self, shard: int) -> None:
        """A shard answers no more: what waits for it, and whatever comes for it, is 503."""
        self._gone.add(shard)
        gone = [number for number, each in self._outstanding.items() if each.shard == shard]
        self._give_up(gone, OwnCause.WORKER_LOST)

    def close(self) -> None:
        """Whatever waits is 503, and so is what comes; no timer is left."""
        self._closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._give_up(list(self._outstanding), OwnCause.SHUTDOWN)

    def _cause(self, shard: int) -> OwnCause | None:
        """Why a push for this shard is turned away before it is sent there."""
        if self._closed:
            return OwnCause.SHUTDOWN
        if shard in self._gone:
            return OwnCause.WORKER_LOST
        return OwnCause.OVERLOADED if len(self._outstanding) >= self._most else None

    def _look(self) -> None:
        """Give up what waited for too long."""
        self._timer = None
        now, late = self._reactor.seconds(), []
        oldest = now
        for number, each in self._outstanding.items():
            if now - each.since < self._patience:
                oldest = each.since
                break
            late.append(number)
        self._give_up(late, OwnCause.OVERLOADED)
        if self._outstanding and self._timer is None:
            self._timer = self._reactor.callLater(max(0.0, oldest + self._patience - now), self._look)

    def _give_up(self, numbers: list[int], cause: OwnCause) -> None:
        for number in numbers:
            outstanding = self._outstanding.pop(number)
            self._first.settle(outstanding.spent, None)
            outstanding.reply(self._unavailable(outstanding.fields, cause))

    def _unavailable(self, fields: list[tuple[str, str]], cause: OwnCause) -> Answer:
        reason = Reason.SERVICE_UNAVAILABLE
        return self._nobody.refuse(PushRefused(reason, apns_id=apns_id_of(fields), own=cause))
