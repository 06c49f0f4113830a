"""Waits until a Mac has some properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from agent.net.timing import Clock, sleep
from agent.service.events import EventLog, TimedOut
from agent.service.types import Mac, WaitState

LOOK_SECONDS = 0.02  # between two looks: some properties change without an event; ours
_NAMES = ("power", "state", "enrolled", "lom", "connected")


class _Naps:
    """Times between two looks at a Mac. An event of it ends one at once, so that a state that does not last is seen."""

    def __init__(self, clock: Clock, events: EventLog, udid: str) -> None:
        self._clock = clock
        self._nap: Deferred[None] | None = None
        self.taken = 0
        self.close = events.subscribe(lambda event: self._end() if event.udid == udid else None)

    async def take(self) -> None:
        """Wait for the next look."""
        nap: Deferred[None] = Deferred()
        self._nap = nap
        self.taken += 1
        timer = self._clock.callLater(LOOK_SECONDS, self._end)
        try:
            await nap
        finally:
            self._nap = None
            if timer.active():
                timer.cancel()

    def _end(self) -> None:
        nap, self._nap = self._nap, None
        if nap is not None:
            nap.callback(None)


async def until(clock: Clock, look: Callable[[], Mac], wanted: WaitState, events: EventLog, udid: str) -> Mac:
    """Look at the Mac with this UDID until it has these properties. Raises TimedOut, and what ``look`` raises."""
    naps = _Naps(clock, events, udid)
    try:
        seen = await _until(clock, look, wanted, naps)
    finally:
        naps.close()
    if naps.taken:
        await sleep(clock, 0)  # an event comes while the Mac is at work: it finishes what it does first
    return seen


async def _until(clock: Clock, look: Callable[[], Mac], wanted: WaitState, naps: _Naps) -> Mac:
    wants = {name: value for name in _NAMES if (value := getattr(wanted, name)) is not None}
    ends = clock.seconds() + wanted.timeout
    while True:
        late = clock.seconds() >= ends  # before the look: one is taken after the end, too
        seen = look()
        found = {name: getattr(seen, name) for name in wants}
        if found == wants:
            return seen
        if late:
            raise TimedOut(
                f"Expected {_words(wants)} of {seen.name} within {wanted.timeout:g} s, found {_words(found)}. "
                "Read its events and its last exchanges."
            )
        await naps.take()


def _words(properties: dict[str, Any]) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in properties.items()) or "any properties"
