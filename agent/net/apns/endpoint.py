"""The desk at which the pushes for the Macs of one process are taken, kept and handed out; it has the broker's timer.

It is a router that has nobody to ask: a gateway in the same process gives it the requests. One in another process sends
them as bytes (``agent.push.wire``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from agent.net.timing import DelayedCall, Reactor
from agent.push.broker import Answer, PushBroker, Reply
from agent.push.reasons import PushRefused
from agent.push.requests import Provider
from agent.push.store import Notification
from agent.push.wire import decode_push, encode_answer

_log = Logger()

Deliver = Callable[[Notification], bool]


class PushEndpoint:
    """``deliver`` hands a notification to its Mac and says whether the Mac takes it for its own.

    ``ahead`` is how far the dates that providers write are ahead of ``wall_clock``.
    """

    def __init__(
        self,
        reactor: Reactor,
        broker: PushBroker,
        deliver: Deliver,
        *,
        wall_clock: Callable[[], float] = time.time,
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.broker = broker
        self._reactor = reactor
        self._deliver = deliver
        self._wall_clock = wall_clock
        self._ahead = ahead
        self._timer: DelayedCall | None = None
        self._due = 0.0
        self._closed = False

    @property
    def counts(self) -> dict[str, Any]:
        """What became of the pushes."""
        return {**self.broker.counts.as_json(), "waiting": self.broker.waiting}

    def open(self) -> None:
        """Begin to look at the time: Macs that a rule keeps offline come back by it."""
        self._arm()

    def close(self) -> None:
        """Hand out nothing any more; no timer is left."""
        self._closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # From the gateway: in this process, which calls hand_out; or from another one by bytes: then what a push sets off
    # begins a turn of the reactor later, when the answer is on its way.

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Decide on one request."""
        reply(self.broker.receive(fields, body, provider, self._wall_clock(), ahead=self._ahead()))

    def refuse(self, refused: PushRefused) -> Answer:
        """The answer to a request that was not even read."""
        return self.broker.refuse(refused)

    def turned_away(self) -> None:
        """The gateway ended a connection because there were too many."""
        self.broker.turned_away()

    def receive(self, octets: bytes) -> bytes:
        """Decide on one request of another process; the bytes of the answer. Raises PushWireError."""
        push = decode_push(octets)
        now = min(push.at, self._wall_clock())  # the clocks of two processes: no push comes from the future
        outcome = self.broker.receive(push.fields, push.body, push.provider, now, push.spent, self._ahead())
        self._arm()
        return encode_answer(push.number, outcome)

    def hand_out(self) -> None:
        """The notifications whose time has come reach their Macs."""
        for notification in self.broker.take():
            try:
                self.broker.reached(self._deliver(notification))
            except Exception:  # noqa: BLE001 - a Mac's defect must not keep the others from their pushes
                _log.failure("a push could not be handed to Mac {index}", index=notification.index)
        self._arm()

    # From the Macs.

    def came_back(self, index: int) -> None:
        """Mac ``index`` is online, or enrolled: it gets what waits for it."""
        self.broker.came_back(index, self._wall_clock())
        self.hand_out()

    def left(self, index: int) -> None:
        """Mac ``index`` has left its management."""
        self.broker.left(index)

    # Time.

    def _advance(self) -> None:
        self._timer = None
        self.broker.advance(self._wall_clock())
        self.hand_out()

    def _arm(self) -> None:
        """One timer for everything that waits."""
        if self._closed:
            return
        now = self._wall_clock()
        deadline = now if self.broker.ready else self.broker.deadline
        if self._timer is not None and self._timer.active():
            if deadline is not None and deadline >= self._due:
                return  # it looks early at the most, and arms anew
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            self._due = deadline
            self._timer = self._reactor.callLater(max(0.0, deadline - now), self._advance)
