"""The session: from Idle, command by command, to the server's empty answer. No I/O.

::

            open            answer: a command           result
    CLOSED ------> WAITING ------------------> WORKING --------> WAITING
       ^              |                           |
       +--------------+---------------------------+
        empty answer, refusal, broken connection,
                      power lost

A result counts as delivered when its PUT was answered with 200. Until then the Mac keeps it: the next session opens
with it instead of Idle (Apple's MDM protocol reference: a broken connection after a command). A command that was being
worked on when the power went was never answered, so the server still has it queued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from agent.errors import MisuseError, PeerError
from agent.mdm.commands import Command, CommandDropped, CommandMalformed, parse_command
from agent.mdm.results import Result, Status, idle_body
from agent.plists import PlistError

RETRY_FIRST_SECONDS = 1.0  # undocumented: exponential from here
RETRY_LONGEST_SECONDS = 60.0  # undocumented: … to here
NOT_NOW_RETRY_SECONDS = 60.0  # undocumented: how long after NotNow the Mac asks again by itself


class State(Enum):
    """Where a session stands."""

    CLOSED = auto()
    WAITING = auto()  # a report was sent; its answer is awaited
    WORKING = auto()  # a command is being carried out


class Input(Enum):
    """What can happen to a session."""

    OPEN = auto()
    COMMAND = auto()
    END = auto()
    RESULT = auto()
    POWER_LOST = auto()


TABLE: dict[tuple[State, Input], State] = {
    (State.CLOSED, Input.OPEN): State.WAITING,
    (State.WAITING, Input.COMMAND): State.WORKING,
    (State.WAITING, Input.END): State.CLOSED,
    (State.WORKING, Input.RESULT): State.WAITING,
    (State.CLOSED, Input.POWER_LOST): State.CLOSED,
    (State.WAITING, Input.POWER_LOST): State.CLOSED,
    (State.WORKING, Input.POWER_LOST): State.CLOSED,
}


class ServerRefused(PeerError):
    """The server answered a report with a status other than 200."""

    kind = "http_status"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Send:
    """PUT this report to the ServerURL. ``command_uuid`` is empty where it is no result."""

    body: bytes
    command_uuid: str = ""


@dataclass(frozen=True, slots=True)
class Execute:
    """Carry this command out, then call ``finish``."""

    command: Command


@dataclass(frozen=True, slots=True)
class Over:
    """The session is closed: in good order, or because of ``failure``.

    ``unenrolled`` says that the server does not know this Mac any more.
    """

    failure: PeerError | None = None
    unenrolled: bool = False


Event = Send | Execute | Over


class Session:
    """One Mac's sessions with its server, one after another.

    ``deadline`` (seconds on the caller's clock, or None) is when the Mac opens a session by itself. ``jitter`` gives
    numbers from 0 to 1 for the back-off. ``woken`` remembers a push that came while a session was open.
    """

    __slots__ = ("_jitter", "_not_now", "_udid", "_undelivered", "deadline", "failures", "state", "woken")

    def __init__(self, udid: str, jitter: Callable[[], float]) -> None:
        self._udid = udid
        self._jitter = jitter
        self._undelivered: Send | None = None
        self._not_now = False
        self.state = State.CLOSED
        self.deadline: float | None = None
        self.failures = 0
        self.woken = False

    @property
    def owes_result(self) -> bool:
        """Whether a result is still to be delivered."""
        return self._undelivered is not None

    def open(self) -> Send:
        """Start a session: report the undelivered result if there is one, else Idle."""
        self._move(Input.OPEN)
        self.deadline = None
        self.woken = False
        return self._undelivered or Send(idle_body(self._udid))

    def wake(self) -> Send | None:
        """A push came: start a session, or look again when the open one ends."""
        if self.state is State.CLOSED:
            return self.open()
        self.woken = True
        return None

    def answer(self, status: int, body: bytes, now: float) -> Event:
        """The server answered the report that was sent last."""
        if self.state is not State.WAITING:
            raise MisuseError(f"an answer in the state {self.state.name}")
        if status != 200:
            return self._refused(status, now)
        self._undelivered = None
        self.failures = 0
        if not body:
            return self._end_in_order(now)
        try:
            command = parse_command(body)
        except CommandMalformed as error:
            self._move(Input.COMMAND)
            return self.finish(error.command_uuid, Result(Status.COMMAND_FORMAT_ERROR))
        except (CommandDropped, PlistError) as error:
            self._move(Input.END)
            return Over(error)
        self._move(Input.COMMAND)
        return Execute(command)

    def finish(self, command_uuid: str, result: Result) -> Send:
        """The command in hand is done: report its result, and keep it until that is answered."""
        self._move(Input.RESULT)
        self._not_now = result.status is Status.NOT_NOW
        self._undelivered = Send(result.body(self._udid, command_uuid), command_uuid)
        return self._undelivered

    def broke(self, failure: PeerError, now: float) -> Over:
        """The connection broke before the answer came; the Mac tries again after a while."""
        self._move(Input.END)
        self._back_off(now)
        return Over(failure)

    def power_lost(self) -> None:
        """The Mac went off or was reset: whatever was open is gone; an undelivered result is kept."""
        self._move(Input.POWER_LOST)
        self.deadline = None
        self.woken = False

    def _end_in_order(self, now: float) -> Event:
        self._move(Input.END)
        if self.woken:
            return self.open()
        if self._not_now:
            self._not_now = False
            self.deadline = now + NOT_NOW_RETRY_SECONDS
        return Over()

    def _refused(self, status: int, now: float) -> Over:
        self._move(Input.END)
        unenrolled = status == 401
        if status >= 500 or status == 429:
            self._back_off(now)
        return Over(ServerRefused(f"the server answered a report with {status} instead of 200", status), unenrolled)

    def _back_off(self, now: float) -> None:
        longest = min(RETRY_LONGEST_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(self.failures, 16))
        self.failures += 1
        self.deadline = now + longest * (0.5 + 0.5 * self._jitter())

    def _move(self, happened: Input) -> None:
        try:
            self.state = TABLE[self.state, happened]
        except KeyError:
            raise MisuseError(f"{happened.name} in the state {self.state.name}") from None
