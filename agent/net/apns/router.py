"""From the gateway to the processes that simulate the Macs: each push goes to its Mac's process, the answer comes back.

The device token says which Mac a push is for. Pushes for none of the fleet's Macs are refused here; all others are
decided on by the push endpoint (`agent.net.apns.endpoint`) of the Mac's process. Where an endpoint does not answer, the
provider gets a 503.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.net.apns.behaviour import PushBehaviour
from agent.net.timing import Alarm, Reactor, RunClock
from agent.push.broker import Answer, Presence, PushBroker, Reply
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import Provider, apns_id_of, token_of
from agent.push.rules import FirstPushes
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


@dataclass(slots=True)
class _Outstanding:
    """A request that was sent to an endpoint and has no answer yet."""

    index: int
    """The Mac's."""
    shard: int
    fields: list[tuple[str, str]]
    reply: Reply
    since: float
    """When it was sent, on the reactor's clock."""
    spent: tuple[int, ...]
    """As in RoutedPush."""


class PushRouter:
    """Routes the pushes of one gateway.

    ``shard_of`` maps a Mac's index to the shard that simulates it. ``send`` sends a push to a shard's endpoint; it does
    not raise, a lost shard is reported by ``shard_gone``. The rules with ``first=`` are counted here, for all endpoints
    together. ``patience`` is how long an endpoint may take, in seconds; ``most`` is the limit of unanswered requests.
    ``elapsed`` are the seconds of earlier processes of the run, ``first`` the counts of their ``first=`` rules.
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
        elapsed: float = 0.0,
        first: Mapping[int, int] | None = None,
    ) -> None:
        self.began = clock() - elapsed
        self._reactor = reactor
        self._tokens = tokens
        self._shard_of = shard_of
        self._send = send
        self._clock = clock
        self._no_macs = PushBroker(_NoMacs(), policy=behaviour.policy())
        self._first = FirstPushes(behaviour.parsed_rules(), first)
        self._patience = patience
        self._most = most
        self._number = 0
        self._outstanding: dict[int, _Outstanding] = {}  # by number, the oldest first
        self._gone: dict[int, OwnCause] = {}  # the shards that are gone, and why
        self._own: dict[int, tuple[float, OwnCause]] = {}  # Macs whose last answered push was refused here, and when
        self._alarm = Alarm(reactor, self._give_up_late)
        self._closed = False

    @property
    def counts(self) -> dict[str, Any]:
        """The outcomes that were decided here; the endpoints count the others."""
        return self._no_macs.counts.as_json()

    @property
    def first(self) -> dict[int, int]:
        """What the rules with ``first=`` have left, by their numbers."""
        return self._first.left

    @property
    def outstanding(self) -> int:
        """How many requests have no answer yet."""
        return len(self._outstanding)

    def own_refusal(self, index: int, since: float) -> OwnCause | None:
        """Why the last push to Mac ``index`` was refused here; None if it was not, or before ``since`` (a date)."""
        refused = self._own.get(index)
        return None if refused is None or refused[0] < since else refused[1]

    # What the gateway calls.

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Decide on a complete request. ``reply`` is called once with the outcome, now or later."""
        now = self._clock()
        token = token_of(fields)
        index = None if token is None else self._tokens.index_of_token(token)
        if index is None:
            reply(self._no_macs.receive(fields, body, provider, now))
            return
        shard = self._shard_of(index)
        cause = self._cause(shard)
        if cause is not None:
            reply(self._unavailable(index, fields, cause))
            return
        self._number += 1
        spent = self._first.reserve(index, now - self.began)
        self._outstanding[self._number] = _Outstanding(index, shard, fields, reply, self._reactor.seconds(), spent)
        if not self._alarm.is_set:
            self._alarm.set(self._patience)
        self._send(shard, RoutedPush(self._number, now, fields, body, provider, spent))

    def refuse(self, refused: PushRefused) -> Answer:
        """The answer to a request that the gateway refuses itself; it is counted."""
        return self._no_macs.refuse(refused)

    def turned_away(self) -> None:
        """The gateway closed a connection because there were too many."""
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
        del self._outstanding[answer.number]
        self._own.pop(outstanding.index, None)
        self._first.settle(outstanding.spent, answer.rule)
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
            outstanding = self._outstanding.pop(number)
            self._first.settle(outstanding.spent, None)
            outstanding.reply(self._unavailable(outstanding.index, outstanding.fields, cause))

    def _unavailable(self, index: int, fields: list[tuple[str, str]], cause: OwnCause) -> Answer:
        self._own[index] = self._clock(), cause
        reason = Reason.SERVICE_UNAVAILABLE
        return self._no_macs.refuse(PushRefused(reason, apns_id=apns_id_of(fields), own=cause))
