"""The Macs of the start are enrolled, a few at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.service.starting import ENROLL_AT_ONCE, enroll_start


class Macs:
    """A service with Macs whose enrollment ends when the test says so or, with ``at_once``, at once."""

    def __init__(self, count: int) -> None:
        self.at_once = False
        self.running: list[Deferred[None]] = []
        self.begun: list[str] = []
        self.actions = self
        self.handles = [
            SimpleNamespace(udid=str(number), removed=False, client=SimpleNamespace(enrolled=number == 1))
            for number in range(count)
        ]

    def macs(self) -> Any:
        """All of them."""
        return iter(self.handles)

    async def enroll(self, handle: Any, _how: object) -> None:
        """Enroll one."""
        self.begun.append(handle.udid)
        if not self.at_once:
            running: Deferred[None] = Deferred()
            self.running.append(running)
            await running


def begin(macs: Macs, stopped: list[bool]) -> list[str]:
    """Begin, and return the warnings."""
    warnings: list[str] = []
    enroll_start(macs, lambda: bool(stopped), warnings.append)  # type: ignore[arg-type]
    return warnings


def test_a_few_are_enrolled_at_a_time_and_each_once() -> None:
    macs, stopped = Macs(ENROLL_AT_ONCE + 4), list[bool]()
    warnings = begin(macs, stopped)
    assert len(macs.begun) == ENROLL_AT_ONCE
    macs.handles[-1].removed = True
    macs.running[0].callback(None)
    macs.running[1].errback(PeerError("refused"))
    assert macs.begun == [str(number) for number in range(ENROLL_AT_ONCE + 3) if number != 1]
    assert warnings == ["2 did not enroll: refused"]
    stopped.append(True)
    for running in macs.running[2:]:
        running.errback(PeerError("stopped"))
    assert len(warnings) == 1


def test_thousands_of_enrollments_may_end_at_once() -> None:
    macs = Macs(5000)
    begin(macs, [])
    macs.at_once = True
    for running in macs.running:
        running.callback(None)
    assert len(macs.begun) == 4999
