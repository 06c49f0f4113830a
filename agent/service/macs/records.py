"""What a service remembers of its Macs: events, answers, the last errors, and where fault rules did something."""

from __future__ import annotations

from collections.abc import Callable

from agent.measure.exchanges import HTTPExchange
from agent.service.events import EventLog
from agent.service.macs.answers import AnswerLog

_WITH_SERVER = ("enroll", "checkin", "report", "scep", "acme")  # kinds of exchanges


class Records:
    """``now`` is the clock of the events, in seconds since the epoch. ``excuses`` says of a rule's id whether its hit
    may make a correct server fail.

    ``last_errors`` has the error of each Mac's last session or enrollment that failed, by UDID. ``injected`` has the
    UDIDs of the Macs in whose last session or enrollment such a rule hit: its failure is not the server's.
    """

    def __init__(self, now: Callable[[], float], excuses: Callable[[str], bool]) -> None:
        self.now = now
        self._excuses = excuses
        self.events = EventLog(now)
        self.answers = AnswerLog()
        self.last_errors: dict[str, str] = {}
        self.injected: set[str] = set()

    def exchanged(self, exchange: HTTPExchange) -> None:
        """Tell of the fault rules that hit an exchange."""
        if not exchange.rules:
            return
        if exchange.kind in _WITH_SERVER and any(map(self._excuses, exchange.rules)):
            self.injected.add(exchange.udid)
        what = f"{exchange.kind.replace('_', ' ')} {exchange.request_type or exchange.message_type}".strip()
        for rule in exchange.rules:
            self.events.add(
                "rule_hit",
                f"The rule {rule} hit {what}.",
                udid=exchange.udid,
                command_uuid=exchange.command_uuid,
                request_type=exchange.request_type,
                rules=[rule],
                data={"exchange": exchange.number},
            )

    def forget(self, udid: str) -> None:
        """Forget all of one Mac but its events."""
        self.answers.clear(udid)
        self.last_errors.pop(udid, None)
        self.injected.discard(udid)

    def clear(self) -> None:
        """Forget everything. The numbers of the events go on."""
        self.events.clear()
        self.forget_all()

    def forget_all(self) -> None:
        """Forget all of every Mac but the events."""
        self.answers.clear()
        self.last_errors.clear()
        self.injected.clear()
