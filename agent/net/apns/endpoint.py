"""The push endpoint of one process: it decides on the pushes for the process's Macs, stores them and delivers them.

The gateway is in the conductor's process. Its router (`agent.net.apns.router`) sends each push to the endpoint of the
process that simulates the Mac, as a RoutedPush, and gets a RoutedAnswer back. The decisions are made by
`agent.push.broker`; the endpoint gives it the time and delivers what is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from agent.net.timing import Alarm, Clock, RunClock
from agent.push.broker import PushBroker
from agent.push.store import Notification
from agent.push.wire import RoutedAnswer, RoutedPush

_log = Logger()


def _ignore() -> None:
    """For stored notifications that end with the process."""


Deliver = Callable[[Notification], bool]


class PushEndpoint:
    """``deliver`` passes a notification to its Mac and returns whether the Mac accepts it (topic and PushMagic match).

    ``on_change`` is called when other notifications are stored than before, or may be.
    ``timers`` and ``clock`` are those of the Macs; the dates that providers write come from the system's clock.
    """

    def __init__(self, timers: Clock, broker: PushBroker, deliver: Deliver, clock: RunClock) -> None:
        self.broker = broker
        self.on_change: Callable[[], object] = _ignore
        self._deliver = deliver
        self._clock = clock
        self._alarm = Alarm(timers, self._advance)
        self._due = 0.0  # the date for which the alarm is set
        self._closed = False

    @property
    def counts(self) -> dict[str, Any]:
        """The outcomes of the pushes, as in the results."""
        return {**self.broker.counts.as_json(), "waiting": self.broker.waiting}

    def open(self) -> None:
        """Start the timer, for what was stored before."""
        self._set_alarm()

    def close(self) -> None:
        """Stop the timer and deliver nothing more."""
        self._closed = True
        self._alarm.cancel()

    def receive(self, push: RoutedPush) -> RoutedAnswer:
        """Decide on one push. It is delivered in a later turn of the reactor, after the answer was sent."""
        now = min(push.at, self._clock())  # the clocks of two processes differ a little: no push is from the future
        outcome = self.broker.receive(push.fields, push.body, push.provider, now, self._clock.ahead())
        self._set_alarm()
        self.on_change()
        return RoutedAnswer.of(push.number, outcome)

    # What the Macs call.

    def came_back(self, index: int) -> None:
        """Mac ``index`` is online or enrolled again: deliver what is stored for it."""
        self.broker.came_back(index, self._clock())
        self._deliver_due()

    def left(self, index: int) -> None:
        """Mac ``index`` is no longer managed."""
        self.broker.left(index)
        self.on_change()

    # Time.

    def _advance(self) -> None:
        self.broker.advance(self._clock())
        self._deliver_due()

    def _deliver_due(self) -> None:
        self.on_change()
        for notification in self.broker.take():
            try:
                self.broker.reached(self._deliver(notification))
            except Exception:  # noqa: BLE001 - a defect in one Mac must not stop the pushes to the others
                _log.failure("a push could not be delivered to Mac {index}", index=notification.index)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._closed:
            return
        now = self._clock()
        deadline = now if self.broker.ready else self.broker.deadline
        if deadline is None:
            self._alarm.cancel()
        elif not self._alarm.is_set or deadline < self._due:  # an alarm that is early is set again when it goes off
            self._due = deadline
            self._alarm.set(deadline - now)
