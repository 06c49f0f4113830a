"""The power state of one Mac: the effect of each request and of time. No I/O.

``TABLE`` has the effect of each request in each state. Where Apple does not document the effect, the cell is a
``Choice`` of effects, the default first; ``PowerChoices`` selects one of them.

::

                 PowerON              boot ends
            OFF ---------> BOOTING ------------------> ON
             ^                ^                         | RestartDevice, ShutDownDevice
             |                |                         v
             +----------------+------------------ SHUTTING_DOWN
                      shutdown ends

PowerOFF and Reset take effect at once from every running state: PowerOFF leads to OFF, Reset to OFF and then BOOTING.
During a power cut the Mac is OFF and receives no requests; afterwards it boots if it was running before.
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
    """The power state of a Mac."""

    OFF = auto()
    BOOTING = auto()
    ON = auto()
    SHUTTING_DOWN = auto()  # orderly shutdown: macOS starts no new sessions

    @property
    def words(self) -> str:
        """The state as error texts name it."""
        return self.name.lower().replace("_", " ")


class SystemRequest(Enum):
    """An orderly power change that macOS performs on a command of its MDM server."""

    RESTART = "RestartDevice"
    SHUT_DOWN = "ShutDownDevice"


AnyRequest = PowerRequest | SystemRequest


class PowerEvent(Enum):
    """A change of the power state."""

    SHUTDOWN_STARTED = auto()  # orderly: connections are closed, no session is started
    WENT_DOWN = auto()  # every connection and session is lost
    BOOT_STARTED = auto()
    CAME_UP = auto()


class RequestRefused(PeerError):
    """The Mac refuses a power request in its current state."""

    kind = "lom_power_state"


class Change(Enum):
    """The effect of a request."""

    NOTHING = auto()
    BOOT = auto()
    DOWN = auto()  # off at once
    RESET = auto()  # off at once, then boot
    SHUT_DOWN = auto()  # orderly shutdown
    RESTART = auto()  # orderly shutdown, then boot
    BOOT_AFTER = auto()  # boot after the current shutdown
    OFF_AFTER = auto()  # stay off after the current shutdown
    REFUSED = auto()


@dataclass(frozen=True)
class Choice:
    """A cell of the table that Apple does not document: the possible effects by option name, the default first."""

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
    # macOS is not running or is shutting down, so it receives no commands.
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


class PowerRecord(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A PowerMachine, to make it again in another process. Times are seconds from the moment of the record."""

    state: str = Power.ON.name
    left: float | None = None
    """Until the end of the boot or shutdown."""
    boots_after: bool = False
    cut: bool = False
    ran_before_cut: bool = False
    prolonged: float = 0.0
    """Seconds that the next boot takes longer."""


def _no_option(name: str, word: object) -> str:
    return f"{name}: expected one of {', '.join(CHOICES[name].options)}, found {word!r}"


class PowerMachine:
    """The power state of one Mac. ``boot_seconds`` and ``shutdown_seconds`` return the duration of the next one.

    ``deadline`` (seconds on the caller's clock) is the end of the current boot or shutdown, or None. ``boots_after``
    is true if a boot follows the current shutdown. ``cut`` is true during a power cut.
    """

    __slots__ = (
        "_boot_seconds",
        "_choices",
        "_prolonged",
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
        self._prolonged = 0.0

    def record(self, now: float) -> PowerRecord:
        """The present state."""
        left = None if self.deadline is None else max(0.0, self.deadline - now)
        return PowerRecord(self.state.name, left, self.boots_after, self.cut, self._ran_before_cut, self._prolonged)

    def resume(self, record: PowerRecord, now: float) -> None:
        """Take a recorded state over. Raises KeyError."""
        self.state = Power[record.state]
        self.deadline = None if record.left is None else now + record.left
        self.boots_after, self.cut = record.boots_after, record.cut
        self._ran_before_cut = record.ran_before_cut
        self._prolonged = record.prolonged

    def prolong_boot(self, seconds: float) -> None:
        """The next boot takes so much longer: macOS installs an update during it."""
        self._prolonged = seconds

    def receive(self, request: AnyRequest, now: float) -> list[PowerEvent]:
        """Apply a request at ``now`` and return the resulting events in order, those that were due by then first.

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
            self.state, self.deadline, self.boots_after = before  # the next ``advance`` returns the events due by now
            raise RequestRefused(f"{request.value} refused: the Mac is {found}")
        return events + self._change(change, now)

    def cut_mains(self, now: float) -> list[PowerEvent]:
        """Start a power cut. No effect during a power cut."""
        if self.cut:
            return []
        events = self.advance(now)
        self.cut = True
        self._ran_before_cut = self.state in (Power.ON, Power.BOOTING) or self.boots_after
        return events + (self._go_down() if self.state is not Power.OFF else [])

    def restore_mains(self, now: float, *, boot: bool = True) -> list[PowerEvent]:
        """End a power cut. With ``boot`` the Mac boots if it was running before, otherwise it stays off.

        ``boot`` is the usual setting in a server room, "Start up automatically after a power failure".
        Source: pmset(1), autorestart.
        """
        if not self.cut:
            return []
        self.cut = False
        return self._boot(now) if boot and self._ran_before_cut else []

    def advance(self, now: float) -> list[PowerEvent]:
        """Complete each shutdown and boot that is due by ``now``, and return the events."""
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
        self.deadline = now + self._boot_seconds() + self._prolonged
        self._prolonged = 0.0
        return [PowerEvent.BOOT_STARTED]
