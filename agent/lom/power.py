"""The power of one Mac: what each request and the passing of time do to it. No I/O.

``TABLE`` is the whole of it. Where Apple says nothing, the choice is written beside the line.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from agent.errors import PeerError
from agent.lom.requests import PowerRequest


class Power(Enum):
    """Whether a Mac runs."""

    OFF = auto()
    BOOTING = auto()
    ON = auto()


class PowerEvent(Enum):
    """What a change of power means to everything that depends on it."""

    WENT_DOWN = auto()  # whatever ran is gone: connections, sessions
    BOOT_STARTED = auto()
    CAME_UP = auto()


class RequestRefused(PeerError):
    """A power request that makes no sense in the state the Mac is in."""

    kind = "lom_power_state"


class Change(Enum):
    """What a request does."""

    NOTHING = auto()
    BOOT = auto()
    DOWN = auto()
    RESTART = auto()
    REFUSED = auto()


TABLE: dict[tuple[Power, PowerRequest], Change] = {
    (Power.OFF, PowerRequest.ON): Change.BOOT,
    (Power.OFF, PowerRequest.OFF): Change.NOTHING,  # our choice: it is what was asked for
    (Power.OFF, PowerRequest.RESET): Change.REFUSED,  # our choice: nothing runs that could be reset
    (Power.BOOTING, PowerRequest.ON): Change.NOTHING,  # our choice: it is on its way
    (Power.BOOTING, PowerRequest.OFF): Change.DOWN,
    (Power.BOOTING, PowerRequest.RESET): Change.RESTART,
    (Power.ON, PowerRequest.ON): Change.NOTHING,  # our choice: success without effect
    (Power.ON, PowerRequest.OFF): Change.DOWN,
    (Power.ON, PowerRequest.RESET): Change.RESTART,
}


class PowerMachine:
    """The power state of one Mac. ``boot_seconds`` gives the length of each boot.

    ``deadline`` (seconds on the caller's clock) is the end of the boot under way, or None.
    """

    __slots__ = ("_boot_seconds", "deadline", "state")

    def __init__(self, boot_seconds: Callable[[], float], state: Power = Power.ON) -> None:
        self._boot_seconds = boot_seconds
        self.state = state
        self.deadline: float | None = None

    def receive(self, request: PowerRequest, now: float) -> list[PowerEvent]:
        """Apply a request at ``now`` and return what happened, in order; first the end of a boot that was over by then.

        Raises RequestRefused and leaves the machine untouched. Source: apple-schema commands/lom.devicerequest.yaml,
        DeviceRequestType.
        """
        events = self.advance(now)
        change = TABLE[self.state, request]
        if change is Change.REFUSED:
            raise RequestRefused(f"{request.value} refused: the Mac is {self.state.name.lower()}")
        if change in (Change.DOWN, Change.RESTART):
            self.state = Power.OFF
            self.deadline = None
            events.append(PowerEvent.WENT_DOWN)
        if change in (Change.BOOT, Change.RESTART):
            self.state = Power.BOOTING
            self.deadline = now + self._boot_seconds()
            events.append(PowerEvent.BOOT_STARTED)
        return events

    def advance(self, now: float) -> list[PowerEvent]:
        """Let time pass until ``now``: a boot whose deadline has come is over."""
        if self.deadline is None or now < self.deadline:
            return []
        self.state = Power.ON
        self.deadline = None
        return [PowerEvent.CAME_UP]
