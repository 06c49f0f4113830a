"""The power of one Mac: what each request and the passing of time do to it. No I/O.

``TABLE`` is the whole of it. Where Apple says nothing, the cell is a ``Choice`` of answers, the default first;
``PowerChoices`` says which of them a Mac takes.

::

                 PowerON              the boot's end
            OFF ---------> BOOTING ------------------> ON
             ^                ^                         | RestartDevice, ShutDownDevice
             |                |                         v
             +----------------+------------------ SHUTTING_DOWN
                    the shutdown's end

PowerOFF and Reset are hard: from every state that runs they lead at once to OFF, or by way of it to BOOTING. A power
cut is neither: what ran is down, nothing is heard while it lasts, and what ran before boots when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Literal

from msgspec import Struct

from agent.errors import MisuseError, PeerError
from agent.lom.requests import PowerRequest
from agent.settings import key


class Power(Enum):
    """Whether a Mac runs."""

    OFF = auto()
    BOOTING = auto()
    ON = auto()
    SHUTTING_DOWN = auto()  # macOS ends in good order: nothing begins any more

    @property
    def words(self) -> str:
        """For an error's text."""
        return self.name.lower().replace("_", " ")


class SystemRequest(Enum):
    """What macOS does with the power itself, in good order, because its MDM server said so."""

    RESTART = "RestartDevice"
    SHUT_DOWN = "ShutDownDevice"


AnyRequest = PowerRequest | SystemRequest


class PowerEvent(Enum):
    """What a change of power means to everything that depends on it."""

    SHUTDOWN_STARTED = auto()  # what runs ends in good order: connections are closed, sessions are not begun
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
    DOWN = auto()  # at once
    RESET = auto()  # down at once, and boot
    SHUT_DOWN = auto()  # in good order
    RESTART = auto()  # down in good order, then boot
    BOOT_AFTER = auto()  # the shutdown under way ends in a boot
    OFF_AFTER = auto()  # … in no boot
    REFUSED = auto()


@dataclass(frozen=True)
class Choice:
    """A cell of the table of which Apple says nothing: what it can be by the word for it, the default first."""

    name: str
    options: Mapping[str, Change]


_NOTHING_OR_REFUSED = {"success": Change.NOTHING, "refuse": Change.REFUSED}

TABLE: Mapping[tuple[Power, AnyRequest], Change | Choice] = {
    (Power.OFF, PowerRequest.ON): Change.BOOT,
    (Power.OFF, PowerRequest.OFF): Choice("power_off_while_off", _NOTHING_OR_REFUSED),
    (Power.OFF, PowerRequest.RESET): Choice("reset_while_off", {"refuse": Change.REFUSED, "boot": Change.BOOT}),
    (Power.BOOTING, PowerRequest.ON): Choice("power_on_while_booting", _NOTHING_OR_REFUSED),
    (Power.BOOTING, PowerRequest.OFF): Change.DOWN,
    (Power.BOOTING, PowerRequest.RESET): Choice(
        "reset_while_booting", {"boot": Change.RESET, "success": Change.NOTHING, "refuse": Change.REFUSED}
    ),
    (Power.ON, PowerRequest.ON): Choice("power_on_while_on", _NOTHING_OR_REFUSED),
    (Power.ON, PowerRequest.OFF): Change.DOWN,
    (Power.ON, PowerRequest.RESET): Change.RESET,
    (Power.ON, SystemRequest.RESTART): Change.RESTART,
    (Power.ON, SystemRequest.SHUT_DOWN): Change.SHUT_DOWN,
    (Power.SHUTTING_DOWN, PowerRequest.ON): Choice(
        "power_on_while_shutting_down",
        {"boot-after": Change.BOOT_AFTER, "success": Change.NOTHING, "refuse": Change.REFUSED},
    ),
    (Power.SHUTTING_DOWN, PowerRequest.OFF): Choice(
        "power_off_while_shutting_down", {"off": Change.DOWN, "off-after": Change.OFF_AFTER, "refuse": Change.REFUSED}
    ),
    (Power.SHUTTING_DOWN, PowerRequest.RESET): Choice(
        "reset_while_shutting_down",
        {"boot": Change.RESET, "boot-after": Change.BOOT_AFTER, "refuse": Change.REFUSED},
    ),
    # macOS is not there, or past listening, so that no command can have asked for these.
    (Power.OFF, SystemRequest.RESTART): Change.REFUSED,
    (Power.OFF, SystemRequest.SHUT_DOWN): Change.REFUSED,
    (Power.BOOTING, SystemRequest.RESTART): Change.REFUSED,
    (Power.BOOTING, SystemRequest.SHUT_DOWN): Change.REFUSED,
    (Power.SHUTTING_DOWN, SystemRequest.RESTART): Change.REFUSED,
    (Power.SHUTTING_DOWN, SystemRequest.SHUT_DOWN): Change.REFUSED,
}

CHOICES: Mapping[str, Choice] = {cell.name: cell for cell in TABLE.values() if isinstance(cell, Choice)}


class PowerChoices(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a LOM request does where Apple does not say."""

    power_off_while_off: Annotated[
        Literal["success", "refuse"], key("PowerOFF to a Mac that is off: success without effect, or an error.")
    ] = "success"
    reset_while_off: Annotated[Literal["refuse", "boot"], key("Reset of a Mac that is off: an error, or it boots.")] = (
        "refuse"
    )
    power_on_while_booting: Annotated[
        Literal["success", "refuse"], key("PowerON to a Mac that boots: success without effect, or an error.")
    ] = "success"
    reset_while_booting: Annotated[
        Literal["boot", "success", "refuse"],
        key("Reset of a Mac that boots: it boots again, success without effect, or an error."),
    ] = "boot"
    power_on_while_on: Annotated[
        Literal["success", "refuse"], key("PowerON to a Mac that is on: success without effect, or an error.")
    ] = "success"
    power_on_while_shutting_down: Annotated[
        Literal["boot-after", "success", "refuse"],
        key("PowerON during a shutdown: a boot after it, success without effect, or an error."),
    ] = "boot-after"
    power_off_while_shutting_down: Annotated[
        Literal["off", "off-after", "refuse"],
        key("PowerOFF during a shutdown: off at once, off after it (a restart ends there), or an error."),
    ] = "off"
    reset_while_shutting_down: Annotated[
        Literal["boot", "boot-after", "refuse"],
        key("Reset during a shutdown: off at once and a boot, a boot after the shutdown, or an error."),
    ] = "boot"

    def __post_init__(self) -> None:
        """Raise MisuseError for a word that is not an option: msgspec checks what it decodes, not a call."""
        for name, cell in CHOICES.items():
            if (word := getattr(self, name)) not in cell.options:
                raise MisuseError(_no_option(name, word))

    def change(self, state: Power, request: AnyRequest) -> Change:
        """What ``request`` does in ``state``."""
        cell = TABLE[state, request]
        return cell if isinstance(cell, Change) else cell.options[getattr(self, cell.name)]


DEFAULT_CHOICES = PowerChoices()


def _no_option(name: str, word: object) -> str:
    return f"{name} should be one of {', '.join(CHOICES[name].options)}, but is {word!r}"


class PowerMachine:
    """The power state of one Mac. ``boot_seconds`` and ``shutdown_seconds`` give the length of each.

    ``deadline`` (seconds on the caller's clock) is the end of the boot or of the shutdown under way, or None.
    ``boots_after`` says whether the shutdown under way ends in a boot. ``cut`` is true while there is no mains power.
    """

    __slots__ = (
        "_boot_seconds",
        "_choices",
        "_ran_before_cut",
        "_shutdown_seconds",
        "boots_after",
        "cut",
        "deadline",
        "state",
    )

    def __init__(
        self,
        boot_seconds: Callable[[], float],
        state: Power = Power.ON,
        *,
        shutdown_seconds: Callable[[], float] = lambda: 0.0,
        choices: PowerChoices = DEFAULT_CHOICES,
    ) -> None:
        self._boot_seconds = boot_seconds
        self._shutdown_seconds = shutdown_seconds
        self._choices = choices
        self.state = state
        self.deadline: float | None = None
        self.boots_after = False
        self.cut = False
        self._ran_before_cut = False

    def receive(self, request: AnyRequest, now: float) -> list[PowerEvent]:
        """Apply a request at ``now`` and return what happened, in order; first what was over by then.

        Raises RequestRefused and leaves the machine untouched. Source: apple-schema commands/lom.devicerequest.yaml,
        DeviceRequestType; device.restart.yaml; device.shutdown.yaml.
        """
        if self.cut:
            raise RequestRefused(f"{request.value} refused: the Mac has no mains power")
        before = self.state, self.deadline, self.boots_after
        events = self.advance(now)
        change = self._choices.change(self.state, request)
        if change is Change.REFUSED:
            found = self.state.words
            self.state, self.deadline, self.boots_after = before  # what was over by now is told by the next ``advance``
            raise RequestRefused(f"{request.value} refused: the Mac is {found}")
        return events + self._change(change, now)

    def cut_mains(self, now: float) -> list[PowerEvent]:
        """The mains power goes; of a Mac that has none already, nothing."""
        if self.cut:
            return []
        events = self.advance(now)
        self.cut = True
        self._ran_before_cut = self.state in (Power.ON, Power.BOOTING) or self.boots_after
        return events + (self._go_down() if self.state is not Power.OFF else [])

    def restore_mains(self, now: float) -> list[PowerEvent]:
        """The mains power is back: the Mac boots if it ran before.

        So it is set up in a server room: "Start up automatically after a power failure". Source: pmset(1), autorestart.
        """
        if not self.cut:
            return []
        self.cut = False
        return self._boot(now) if self._ran_before_cut else []

    def advance(self, now: float) -> list[PowerEvent]:
        """Let time pass until ``now``: a shutdown and a boot whose deadlines have come are over."""
        events: list[PowerEvent] = []
        while self.deadline is not None and now >= self.deadline:
            if self.state is Power.BOOTING:
                self.state = Power.ON
                self.deadline = None
                events.append(PowerEvent.CAME_UP)
            else:
                events += self._change(Change.RESET if self.boots_after else Change.DOWN, self.deadline)
        return events

    def _change(self, change: Change, now: float) -> list[PowerEvent]:
        match change:
            case Change.DOWN:
                return self._go_down()
            case Change.BOOT:
                return self._boot(now)
            case Change.RESET:
                return self._go_down() + self._boot(now)
            case Change.SHUT_DOWN | Change.RESTART:
                self.state = Power.SHUTTING_DOWN
                self.deadline = now + self._shutdown_seconds()
                self.boots_after = change is Change.RESTART
                return [PowerEvent.SHUTDOWN_STARTED]
            case Change.BOOT_AFTER | Change.OFF_AFTER:
                self.boots_after = change is Change.BOOT_AFTER
        return []

    def _go_down(self) -> list[PowerEvent]:
        self.state = Power.OFF
        self.deadline = None
        self.boots_after = False
        return [PowerEvent.WENT_DOWN]

    def _boot(self, now: float) -> list[PowerEvent]:
        self.state = Power.BOOTING
        self.deadline = now + self._boot_seconds()
        return [PowerEvent.BOOT_STARTED]
