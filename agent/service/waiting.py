"""Waits until a Mac has some properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.net.timing import Clock, sleep
from agent.service.events import TimedOut
from agent.service.types import Mac, WaitState

LOOK_SECONDS = 0.02  # between two looks: some properties change without an event; ours
_NAMES = ("power", "state", "enrolled", "lom", "connected")


async def until(clock: Clock, look: Callable[[], Mac], wanted: WaitState) -> Mac:
    """Look at a Mac until it has these properties. Raises TimedOut, and what ``look`` raises."""
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
        await sleep(clock, LOOK_SECONDS)


def _words(properties: dict[str, Any]) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in properties.items()) or "any properties"
