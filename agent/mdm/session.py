"""The MDM session: from Idle, command by command, to the server's empty response. No I/O.

::

            open           response: a command          result
    CLOSED ------> WAITING ------------------> WORKING --------> WAITING
       ^              |                           |
       +--------------+---------------------------+
        empty response, refusal, broken connection,
               power lost, unenrollment

A result is delivered when its PUT is answered with 200, unless with an HTML page: that is not from an MDM server. Until
then the Mac keeps it: the next session opens with it instead of Idle (Apple's MDM protocol reference: a broken
connection after a command). A result that the server refuses permanently, such as with 400 or by a page, is delivered
again a limited number of times and then dropped. A command in progress at a power loss was not answered, so the server
still has it in its queue.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from msgspec import Struct

from agent.errors import MisuseError, PeerError
from agent.mdm.commands import Command, CommandDropped, CommandMalformed, parse_command
from agent.mdm.pages import PageAnswered, also, page_in
from agent.mdm.refusals import ServerRefused, is_temporary, unenrolls
from agent.mdm.results import Result, Status, idle_body
from agent.mdm.timing import DEFAULT_TIMING, Timing
from agent.mdm.waits import bounded_wait
from agent.plists import PlistError

NOT_NOW_REPEATS = 10  # ours: how often one session accepts a command again that it answered with NotNow
REFUSED_RETRIES = 5  # undocumented: how often a result that the server refuses is delivered again
_SHORTEST_SECONDS = 0.001  # of any wait: far above the resolution of a clock, so that a deadline is later than now
_ADVICE = "Check that the profile's ServerURL leads to the MDM server, and not to a login page or a proxy."
_NOT_NOW_REPEATED = (
    f"Expected the server to keep commands that were answered with NotNow for a later session, found that it sent "
    f"them again {NOT_NOW_REPEATS + 1} times in one session. The Mac ended the session. Have the server send another "
    "command instead, or none."
)
_MOST_NOT_NOW = 1000  # commands of one session that are remembered as answered with NotNow


class NotNowRepeated(PeerError):
    """The server repeatedly sends a command that the Mac answered with NotNow."""

    kind = "not_now_repeated"


class State(Enum):
    """The state of a session."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is slow Python, and this is a hot path

    CLOSED = auto()
    WAITING = auto()  # a report was sent, its response is pending
    WORKING = auto()  # a command is in progress


class Input(Enum):
    """The inputs of the state machine."""

    __hash__ = object.__hash__

    OPEN = auto()
    COMMAND = auto()
    END = auto()
    RESULT = auto()
    POWER_LOST = auto()
    LEAVE = auto()


TABLE: dict[tuple[State, Input], State] = {
    (State.CLOSED, Input.OPEN): State.WAITING,
    (State.WAITING, Input.COMMAND): State.WORKING,
    (State.WAITING, Input.END): State.CLOSED,
    (State.WORKING, Input.RESULT): State.WAITING,
    (State.CLOSED, Input.POWER_LOST): State.CLOSED,
    (State.WAITING, Input.POWER_LOST): State.CLOSED,
    (State.WORKING, Input.POWER_LOST): State.CLOSED,
    (State.CLOSED, Input.LEAVE): State.CLOSED,
    (State.WAITING, Input.LEAVE): State.CLOSED,
    (State.WORKING, Input.LEAVE): State.CLOSED,
}


class Send(NamedTuple):
    """PUT this report to the ServerURL."""

    body: bytes
    command_uuid: str = ""
    """The command that it is the result of; empty for Idle."""
    malformed: str = ""
    """Why the command is malformed, where the result is CommandFormatError."""


class Execute(NamedTuple):
    """Carry out this command, then call ``finish``."""

    command: Command


class SessionEnded(NamedTuple):
    """The session is closed."""

    failure: PeerError | None = None
    """Why it failed; None if the server ended it."""
    unenrolled: bool = False
    """Whether the server no longer knows this Mac; the session's state is then reset."""
    dropped: bool = False
    """Whether the result that the server refused is not delivered again."""

    @property
    def refused(self) -> bool:
        """Whether the answer refuses the last report, so that a result in it is not delivered."""
        return isinstance(self.failure, ServerRefused | PageAnswered)


Event = Send | Execute | SessionEnded


class SessionRecord(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A Session, to continue in another process."""

    result: bytes = b""
    """The report that is not delivered yet; empty where there is none."""
    command_uuid: str = ""
    malformed: str = ""
    refused_times: int = 0
    not_now: bool = False
    """Whether the last status was NotNow."""
    failures: int = 0
    left: float | None = None
    """Seconds from the moment of the record until the Mac opens a session by itself."""
    wanted: bool = False
    """Whether a session was open, so that the Mac opens another one at once."""


class Session:
    """One Mac's sessions with its server, one after another.

    ``deadline`` (seconds on the caller's clock, or None) is when the Mac opens a session by itself. ``jitter`` returns
    numbers from 0 to 1 for the back-off. ``woken`` is True after a push during an open session. ``failures`` counts
    the failed attempts since the server last accepted a report. ``refused_retries`` is how often a result that the
    server refuses permanently is delivered again. A call that the state does not allow raises MisuseError and changes
    nothing.
    """

    __slots__ = (
        "_answered_not_now",
        "_current",
        "_jitter",
        "_last_was_not_now",
        "_not_now_repeats",
        "_refused_retries",
        "_refused_times",
        "_timing",
        "_udid",
        "_undelivered",
        "deadline",
        "failures",
        "state",
        "woken",
    )

    def __init__(
        self,
        udid: str,
        jitter: Callable[[], float],
        timing: Timing = DEFAULT_TIMING,
        refused_retries: int = REFUSED_RETRIES,
    ) -> None:
        self._udid = udid
        self._jitter = jitter
        self._timing = timing
        self._current = ""
        self._undelivered: Send | None = None
        self._refused_times = 0  # of the undelivered result
        self._refused_retries = refused_retries
        self._last_was_not_now = False
        self._answered_not_now: set[str] | None = None  # UUIDs of the commands that this session answered with NotNow
        self._not_now_repeats = 0  # how often the server sent one of them again
        self.state = State.CLOSED
        self.deadline: float | None = None
        self.failures = 0
        self.woken = False

    @property
    def owes_result(self) -> bool:
        """Whether a result is not delivered yet."""
        return self._undelivered is not None

    def record(self, now: float) -> SessionRecord:
        """The present state."""
        owed = self._undelivered or Send(b"")
        left = None if self.deadline is None else max(0.0, self.deadline - now)
        wanted = self.state is not State.CLOSED
        return SessionRecord(*owed, self._refused_times, self._last_was_not_now, self.failures, left, wanted)

    def resume(self, record: SessionRecord, now: float) -> None:
        """Take a recorded state over, in a new Session. The caller opens one where it is ``wanted``."""
        if record.result:
            self._undelivered = Send(record.result, record.command_uuid, record.malformed)
        self._refused_times = record.refused_times
        self._last_was_not_now = record.not_now
        self.failures = record.failures
        self.deadline = None if record.left is None else now + record.left

    def open(self) -> Send:
        """Start a session: report the undelivered result if there is one, else Idle."""
        self._move(Input.OPEN)
        self.deadline = None
        self.woken = False
        self._answered_not_now, self._not_now_repeats = None, 0
        if self._undelivered is not None:
            return self._undelivered
        self._last_was_not_now = False
        return Send(idle_body(self._udid))

    def wake(self) -> Send | None:
        """A push arrived: open a session, or another one after the open one."""
        if self.state is State.CLOSED:
            return self.open()
        self.woken = True
        return None

    def answer(
        self, status: int, body: bytes, now: float, *, content_type: str = "", retry_after: float | None = None
    ) -> Event:
        """Process the server's response to the last report.

        A body of white space counts as empty: it ends the session. ``content_type`` is the header Content-Type.
        ``retry_after`` is the header Retry-After in seconds from ``now``, None if it is missing or malformed.
        """
        if self.state is not State.WAITING:
            raise MisuseError(f"Expected no response in the state {self.state.name}, found one.")
        if status != 200:
            text = f"the server answered a report with {status} instead of 200{also(body, content_type)}"
            failure = ServerRefused(text, status)
            return self._refused(failure, unenrolls(status, body, content_type), retry_after, now)
        if not body or body.isspace():
            self._accepted()
            return self._end_by_server(now)
        try:
            command = parse_command(body)
        except CommandMalformed as error:
            self._accepted()
            self._begin(error.command_uuid)
            return self.finish(error.command_uuid, Result(Status.COMMAND_FORMAT_ERROR))._replace(malformed=str(error))
        except (CommandDropped, PlistError) as error:
            if page := page_in(body, content_type):
                return self._refused_for_good(PageAnswered("a command or an empty answer", page, status, _ADVICE), now)
            self._accepted()
            self._end(now)
            return SessionEnded(error)
        self._accepted()
        if self._answered_not_now is not None and command.uuid in self._answered_not_now:
            self._not_now_repeats += 1
            if self._not_now_repeats > NOT_NOW_REPEATS:
                self._end(now)
                return SessionEnded(NotNowRepeated(_NOT_NOW_REPEATED))
        self._begin(command.uuid)
        return Execute(command)

    def finish(self, command_uuid: str, result: Result) -> Send:
        """The current command is finished: report its result, and keep it until the server accepts it.

        Raises MisuseError for the result of another command, one with the status Idle, or one that no plist can hold.
        """
        if self.state is not State.WORKING or command_uuid != self._current or result.status is Status.IDLE:
            raise MisuseError(
                f"Expected the result of the command {self._current!r} in the state {self.state.name}, found "
                f"{result.status.value} for the command {command_uuid!r}."
            )
        send = Send(result.body(self._udid, command_uuid), command_uuid)
        self._move(Input.RESULT)
        self._current = ""
        self._last_was_not_now = result.status is Status.NOT_NOW
        if self._last_was_not_now:
            self._answered_not_now = self._answered_not_now or set()
            if len(self._answered_not_now) < _MOST_NOT_NOW:
                self._answered_not_now.add(command_uuid)
        self._undelivered = send
        self._refused_times = 0
        return send

    def broke(self, failure: PeerError, now: float) -> SessionEnded:
        """The connection broke before the response; the Mac tries again after the back-off."""
        self._move(Input.END)
        self._back_off(now)
        return SessionEnded(failure)

    def power_lost(self) -> None:
        """The Mac lost power or was reset: its session ends, an undelivered result is kept."""
        self._move(Input.POWER_LOST)
        self._current = ""
        self.deadline = None
        self.woken = False

    def forget(self) -> None:
        """The Mac is no longer enrolled: reset everything, an undelivered result included."""
        self._move(Input.LEAVE)
        self._current = ""
        self._undelivered = None
        self._last_was_not_now = False
        self.deadline = None
        self.failures = 0
        self.woken = False

    def _accepted(self) -> None:
        """The server accepted the last report."""
        self._undelivered = None
        self.failures = 0

    def _begin(self, command_uuid: str) -> None:
        self._move(Input.COMMAND)
        self._current = command_uuid

    def _end_by_server(self, now: float) -> Event:
        if self.woken:
            self._move(Input.END)
            return self.open()
        self._end(now)
        return SessionEnded()

    def _end(self, now: float) -> None:
        """Close the session without a retry; the next one follows a push or a NotNow."""
        self._move(Input.END)
        self._answered_not_now = None
        if self.woken:
            self.deadline = now
        elif self._last_was_not_now and self._undelivered is None:
            self.deadline = now + max(_SHORTEST_SECONDS, self._timing.not_now)

    def _refused(self, failure: ServerRefused, unenrolled: bool, retry_after: float | None, now: float) -> SessionEnded:
        status = failure.status
        if unenrolled:
            self.forget()
        elif is_temporary(status):
            self._move(Input.END)
            self._back_off(now, retry_after if status in (429, 503) else None)
        else:
            return self._refused_for_good(failure, now)
        return SessionEnded(failure, unenrolled)

    def _refused_for_good(self, failure: PeerError, now: float) -> SessionEnded:
        dropped = self._drop_refused()
        self._end(now)
        return SessionEnded(failure, dropped=dropped)

    def _drop_refused(self) -> bool:
        """Count a refused delivery; return whether it was a result's last one."""
        if self._undelivered is None:
            return False
        self._refused_times += 1
        if self._refused_times <= self._refused_retries:
            return False
        self._undelivered = None
        self._last_was_not_now = False
        return True

    def _back_off(self, now: float, retry_after: float | None = None) -> None:
        delay = self._timing.back_off(self.failures, self._jitter())
        if retry_after is not None and retry_after > 0.0:  # a date in the past sets no wait
            delay = bounded_wait(retry_after, self._timing.retry_after_longest)
        self.failures += 1
        self.deadline = now + max(_SHORTEST_SECONDS, delay)

    def _move(self, happened: Input) -> None:
        try:
            self.state = TABLE[self.state, happened]
        except KeyError:
            raise MisuseError(f"Expected no {happened.name} in the state {self.state.name}, found one.") from None
