"""From the gateway to the processes that simulate the Macs: each push goes to its Mac's process, the answer comes back.

The device token says which Mac a push is for. Pushes for none of the fleet's Macs are refused here; all others are
decided on by the push endpoint (`agent.net.apns.endpoint`) of the Mac's process. Where an endpoint does not answer, the
provider gets a 503.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import msgspec

from agent.net.apns.behaviour import PushBehaviour
from agent.net.timing import STALL_SECONDS, Alarm, Reactor, RunClock
from agent.push.broker import Answer, Presence, PushBroker, Reply
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import Provider, apns_id_of, token_of
from agent.push.wire import PushWireError, RoutedAnswer, RoutedPush

ANSWER_SECONDS = 5.0  # ours; an endpoint takes microseconds
MOST_OUTSTANDING = 16_384  # ours: requests, of at most 12 KiB each, without an answer


class Tokens(Protocol):
    """Looks up push tokens; ``agent.fleet.population.Population`` is one."""

    def index_of_token(self, token: bytes) -> int | None:
        """The index of the token's Mac; None for an unknown token."""


class _NoMacs:
    """A fleet without Macs: a broker for it refuses every request with the reason that applies."""

    def find(self, _token: bytes) -> int | None:
        return None

    def presence(self, _index: int) -> Presence:
        return Presence.UNKNOWN

    def topic(self, _index: int) -> str:
        return ""

    def left_at(self, _index: int) -> float:
        return 0.0


class _Outstanding(msgspec.Struct):
    """A request that was sent to an endpoint and has no answer yet."""

    index: int
    """The Mac's."""
    shard: int
    fields: list[tuple[str, str]]
    reply: Reply
    since: float
    """When it was sent, on the reactor's clock."""


class PushRouter:
    """Routes the pushes of one gateway.

    ``shard_of`` maps a Mac's index to the shard that simulates it. ``send`` sends a push to a shard's endpoint; it does
    not raise, a lost shard is reported by ``shard_gone``. ``patience`` is how long an endpoint may take, in seconds;
    ``most`` is the limit of unanswered requests.
    """

    def __init__(
        self,
        reactor: Reactor,
        tokens: Tokens,
        shard_of: Callable[[int], int],
        send: Callable[[int, RoutedPush], object],
        clock: RunClock,
        behaviour: PushBehaviour,
        *,
        patience: float = ANSWER_SECONDS,
        most: int = MOST_OUTSTANDING,
    ) -> None:
        self._reactor = reactor
        self._tokens = tokens
        self._shard_of = shard_of
        self._send = send
        self._clock = clock
        self._no_macs = PushBroker(_NoMacs(), policy=behaviour.policy())
        self._patience = patience
        self._most = most
        self._number = 0
        self._outstanding: dict[int, _Outstanding] = {}  # by number, the oldest first
        self._waiting: Counter[int] = Counter()  # how many of them each Mac has
        self._gone: dict[int, OwnCause] = {}  # the shards that are gone, and why
        self._own: dict[int, tuple[float, OwnCause]] = {}  # by Mac, when a push was last refused here, and why
        self._arrived: dict[int, float] = {}  # by Mac, when the last push arrived here
        self._turned_away = -inf  # when a connection was last closed because there were too many
        self._alarm = Alarm(reactor, self._give_up_late)
        self._closed = False

    @property
    def counts(self) -> dict[str, Any]:
        """The outcomes that were decided here; the endpoints count the others."""
        return self._no_macs.counts.as_json()

    @property
    def outstanding(self) -> int:
        """How many requests have no answer yet."""
        return len(self._outstanding)

    def own_refusal(self, index: int, since: float) -> OwnCause | None:
        """Why Mac ``index`` may lack a push since ``since`` (a date) by a fault of this gateway; None if it does not.

        A push was refused here, even if a later one was accepted: that one was late. Or a push waits for its answer. Or
        none arrived, and a connection was closed because there were too many: it may have been the provider's.
        """
        when, cause = self._own.get(index, (-inf, OwnCause.OVERLOADED))
        if when >= since:
            return cause
        if self._waiting[index] and any(
            each.index == index and self._is_late(each) for each in self._outstanding.values()
        ):
            return OwnCause.OVERLOADED
        if self._turned_away >= since > self._arrived.get(index, -inf):
            return OwnCause.CONNECTIONS
        return None

    # What the gateway calls.

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Decide on a complete request. ``reply`` is called once with the outcome, now or later."""
        now = self._clock()
        token = token_of(fields)
        index = None if token is None else self._tokens.index_of_token(token)
        if index is None:
            reply(self._no_macs.receive(fields, body, provider, now))
            return
        self._arrived[index] = now
        shard = self._shard_of(index)
        cause = self._cause(shard)
        if cause is not None:
            reply(self._unavailable(fields, cause))
            return
        self._number += 1
        self._outstanding[self._number] = _Outstanding(index, shard, fields, reply, self._reactor.seconds())
        self._waiting[index] += 1
        if not self._alarm.is_set:
            self._alarm.set(self._patience)
        self._send(shard, RoutedPush(self._number, now, fields, body, provider))

    def refuse(self, fields: list[tuple[str, str]], refused: PushRefused) -> Answer:
        """The answer to a request that the gateway refuses itself; it is counted."""
        token = token_of(fields)
        index = None if token is None else self._tokens.index_of_token(token)
        if index is not None and refused.own is not None:
            self._own[index] = self._clock(), refused.own
        return self._no_macs.refuse(refused)

    def turned_away(self) -> None:
        """The gateway closed a connection because there were too many."""
        self._turned_away = self._clock()
        self._no_macs.turned_away()

    # What the control link brings.

    def answered(self, shard: int, answer: RoutedAnswer) -> None:
        """A shard's endpoint answers. Late answers are ignored. Raises PushWireError for a push that it did not get."""
        outstanding = self._outstanding.get(answer.number)
        if outstanding is None:
            if answer.number > self._number:
                raise PushWireError(f"shard {shard} answered push {answer.number}; the last one sent is {self._number}")
            return
        if outstanding.shard != shard:
            raise PushWireError(f"shard {shard} answered push {answer.number}, which went to shard {outstanding.shard}")
        self._take(answer.number)
        outstanding.reply(answer.outcome)

    def shard_gone(self, shard: int, cause: OwnCause = OwnCause.WORKER_LOST) -> None:
        """A shard is lost, or has ended: its outstanding and its future pushes are answered with 503."""
        self._gone[shard] = cause
        gone = [number for number, each in self._outstanding.items() if each.shard == shard]
        self._give_up(gone, cause)

    def close(self) -> None:
        """Answer all outstanding and all future pushes with 503; no timer is left."""
        self._closed = True
        self._alarm.cancel()
        self._give_up(list(self._outstanding), OwnCause.SHUTDOWN)

    def _cause(self, shard: int) -> OwnCause | None:
        """Why a push is not sent to this shard; None if it is."""
        if self._closed:
            return OwnCause.SHUTDOWN
        if shard in self._gone:
            return self._gone[shard]
        return OwnCause.OVERLOADED if len(self._outstanding) >= self._most else None

    def _give_up_late(self) -> None:
        """Answer requests that are outstanding for longer than ``patience``."""
        now, late = self._reactor.seconds(), []
        oldest = now
        for number, each in self._outstanding.items():
            if now - each.since < self._patience:
                oldest = each.since
                break
            late.append(number)
        self._give_up(late, OwnCause.OVERLOADED)
        if self._outstanding and not self._alarm.is_set:
            self._alarm.set(oldest + self._patience - now)

    def _give_up(self, numbers: list[int], cause: OwnCause) -> None:
        for number in numbers:
            outstanding = self._take(number)
            outstanding.reply(self._unavailable(outstanding.fields, cause))

    def _is_late(self, outstanding: _Outstanding) -> bool:
        return self._reactor.seconds() - outstanding.since > STALL_SECONDS

    def _take(self, number: int) -> _Outstanding:
        """Remove a request that gets its answer."""
        outstanding = self._outstanding.pop(number)
        self._waiting[outstanding.index] -= 1
        if not self._waiting[outstanding.index]:
            del self._waiting[outstanding.index]
        return outstanding

    def _unavailable(self, fields: list[tuple[str, str]], cause: OwnCause) -> Answer:
        return self.refuse(fields, PushRefused(Reason.SERVICE_UNAVAILABLE, apns_id=apns_id_of(fields), own=cause))
