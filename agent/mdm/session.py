"""The session: from Idle, command by command, to the server's empty answer. No I/O.

::

            open            answer: a command           result
    CLOSED ------> WAITING ------------------> WORKING --------> WAITING
       ^              |                           |
       +--------------+---------------------------+
        empty answer, refusal, broken connection,
              power lost, management left

A result counts as delivered when its PUT was answered with 200. Until then the Mac keeps it: the next session opens
with it instead of Idle (Apple's MDM protocol reference: a broken connection after a command). One that the server
refuses for good, such as with 400, is delivered again a number of times and then dropped. A command that was being
worked on when the power went was never answered, so the server still has it queued.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum, auto
from typing import NamedTuple

from agent.errors import MisuseError, PeerError
from agent.mdm.commands import Command, CommandDropped, CommandMalformed, parse_command
from agent.mdm.pages import PageAnswered, also, page_in
from agent.mdm.refusals import ServerRefused, is_temporary, unenrols
from agent.mdm.results import Result, Status, idle_body
from agent.mdm.waits import LONGEST_WAIT_SECONDS, asked_wait
from agent.plists import PlistError

RETRY_FIRST_SECONDS = 1.0  # undocumented: exponential from here
RETRY_LONGEST_SECONDS = 60.0  # undocumented: … to here
NOT_NOW_REPEATS = 10  # ours: how often one session takes the same command again that was answered with NotNow
NOT_NOW_RETRY_SECONDS = 60.0  # undocumented: how long after NotNow the Mac asks again by itself
REFUSED_RETRIES = 5  # undocumented: how often a result that the server refuses is delivered again
_SHORTEST_SECONDS = 0.001  # of any wait: far above the resolution of a clock, so that a deadline is after now
_LOOK_AT = "Check that the profile's ServerURL leads to the MDM server, and not to a login page or a proxy."
_NOT_NOW_REPEATED = (
    f"Expected the server to keep a command that was answered with NotNow for a later session; found that it sent "
    f"such commands again {NOT_NOW_REPEATS + 1} times in one. The Mac ended the session. Have the server send the next "
    "command instead, or none."
)
_MOST_PUT_OFF = 1000  # commands of one session that are remembered for this
_MOST_DOUBLINGS = 64  # beyond, doubling a float gains nothing and could overflow

__all__ = [
    "TABLE",
    "Event",
    "Execute",
    "Input",
    "NotNowRepeated",
    "Over",
    "Send",
    "ServerRefused",
    "Session",
    "State",
    "Timing",
]


class NotNowRepeated(PeerError):
    """The server goes on sending the command that the Mac answered with NotNow."""

    kind = "not_now_repeated"


class State(Enum):
    """Where a session stands."""

    __hash__ = object.__hash__  # each is there once; Enum's own hash is written in Python, and this is a hot path

    CLOSED = auto()
    WAITING = auto()  # a report was sent; its answer is awaited
    WORKING = auto()  # a command is being carried out


class Input(Enum):
    """What can happen to a session."""

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


@dataclass(frozen=True, slots=True)
class Timing:
    """When the Mac opens a session by itself; all in seconds. Raises MisuseError for what is no time.

    After a broken connection, a 5xx or a 429 it waits ``retry_first``, twice that after the next, and so on to
    ``retry_longest``; each wait is cut by the jitter to between half of it and all of it. A Retry-After takes the
    place of that, from a second up to ``retry_after_longest``. ``not_now`` is the wait after a session whose last
    status was NotNow.
    """

    retry_first: float = RETRY_FIRST_SECONDS
    retry_longest: float = RETRY_LONGEST_SECONDS
    retry_after_longest: float = LONGEST_WAIT_SECONDS
    not_now: float = NOT_NOW_RETRY_SECONDS

    def __post_init__(self) -> None:
        for each in fields(self):
            seconds = getattr(self, each.name)
            if not (0.0 < seconds < math.inf):
                raise MisuseError(f"{each.name} should be a positive number of seconds, but is {seconds}")

    def back_off(self, failures: int, jitter: float) -> float:
        """How long to wait after ``failures`` failures that came before this one."""
        longest = min(self.retry_longest, self.retry_first * 2.0 ** min(failures, _MOST_DOUBLINGS))
        return longest * (0.5 + 0.5 * jitter)


DEFAULT_TIMING = Timing()


class Send(NamedTuple):
    """PUT this report to the ServerURL. ``command_uuid`` is empty where it is no result.

    ``malformed`` says what was wrong with the command that this answers with CommandFormatError, if it is that.
    """

    body: bytes
    command_uuid: str = ""
    malformed: str = ""


class Execute(NamedTuple):
    """Carry this command out, then call ``finish``."""

    command: Command


class Over(NamedTuple):
    """The session is closed: in good order, or because of ``failure``.

    ``unenrolled`` says that the server does not know this Mac any more; the session has then forgotten everything.
    ``dropped`` says that the result, which the server refused once more, will not be delivered again.
    """

    failure: PeerError | None = None
    unenrolled: bool = False
    dropped: bool = False


Event = Send | Execute | Over


class Session:
    """One Mac's sessions with its server, one after another.

    ``deadline`` (seconds on the caller's clock, or None) is when the Mac opens a session by itself. ``jitter`` gives
    numbers from 0 to 1 for the back-off. ``woken`` remembers a push that came while a session was open. ``failures``
    counts the attempts since the server last took a report. ``refused_retries`` is how often a result that the server
    refuses for good is delivered again. Out of turn, every call raises MisuseError and changes nothing.
    """

    __slots__ = (
        "_current",
        "_jitter",
        "_last_was_not_now",
        "_put_off",
        "_put_off_again",
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
        self._put_off: set[str] | None = None  # the commands that this session answered with NotNow
        self._put_off_again = 0  # how often one of them came again
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
        self._put_off, self._put_off_again = None, 0
        if self._undelivered is not None:
            return self._undelivered
        self._last_was_not_now = False
        return Send(idle_body(self._udid))

    def wake(self) -> Send | None:
        """A push came: start a session, or look again when the open one ends."""
        if self.state is State.CLOSED:
            return self.open()
        self.woken = True
        return None

    def answer(
        self, status: int, body: bytes, now: float, *, content_type: str = "", retry_after: float | None = None
    ) -> Event:
        """The server answered the report that was sent last.

        A body of white space is an empty one: the session is over. ``content_type`` is the header of that name.
        ``retry_after`` is the header Retry-After in seconds from ``now``, None where it is absent or unreadable.
        """
        if self.state is not State.WAITING:
            raise MisuseError(f"an answer in the state {self.state.name}")
        if status != 200:
            text = f"the server answered a report with {status} instead of 200{also(body, content_type)}"
            failure = ServerRefused(text, status)
            return self._refused(failure, unenrols(status, body, content_type), retry_after, now)
        self._undelivered = None
        self.failures = 0
        if not body or body.isspace():
            return self._end_in_order(now)
        try:
            command = parse_command(body)
        except CommandMalformed as error:
            self._begin(error.command_uuid)
            return self.finish(error.command_uuid, Result(Status.COMMAND_FORMAT_ERROR))._replace(malformed=str(error))
        except (CommandDropped, PlistError) as error:
            self._end(now)
            page = page_in(body, content_type)
            return Over(PageAnswered("a command or an empty answer", page, status, _LOOK_AT) if page else error)
        if self._put_off is not None and command.uuid in self._put_off:
            self._put_off_again += 1
            if self._put_off_again > NOT_NOW_REPEATS:
                self._end(now)
                return Over(NotNowRepeated(_NOT_NOW_REPEATED))
        self._begin(command.uuid)
        return Execute(command)

    def finish(self, command_uuid: str, result: Result) -> Send:
        """The command in hand is done: report its result, and keep it until that is answered.

        Raises MisuseError for a result of another command, one with the status Idle, or one that no plist can hold.
        """
        if self.state is not State.WORKING or command_uuid != self._current or result.status is Status.IDLE:
            raise MisuseError(
                f"the result {result.status.value} of the command {command_uuid!r} in the state {self.state.name}"
            )
        send = Send(result.body(self._udid, command_uuid), command_uuid)
        self._move(Input.RESULT)
        self._current = ""
        self._last_was_not_now = result.status is Status.NOT_NOW
        if self._last_was_not_now:
            self._put_off = self._put_off or set()
            if len(self._put_off) < _MOST_PUT_OFF:
                self._put_off.add(command_uuid)
        self._undelivered = send
        self._refused_times = 0
        return send

    def broke(self, failure: PeerError, now: float) -> Over:
        """The connection broke before the answer came; the Mac tries again after a while."""
        self._move(Input.END)
        self._back_off(now)
        return Over(failure)

    def power_lost(self) -> None:
        """The Mac went off or was reset: whatever was open is gone; an undelivered result is kept."""
        self._move(Input.POWER_LOST)
        self._current = ""
        self.deadline = None
        self.woken = False

    def forget(self) -> None:
        """The Mac left its management: there is no server that commands came from, and none to deliver results to."""
        self._move(Input.LEAVE)
        self._current = ""
        self._undelivered = None
        self._last_was_not_now = False
        self.deadline = None
        self.failures = 0
        self.woken = False

    def _begin(self, command_uuid: str) -> None:
        self._move(Input.COMMAND)
        self._current = command_uuid

    def _end_in_order(self, now: float) -> Event:
        if self.woken:
            self._move(Input.END)
            return self.open()
        self._end(now)
        return Over()

    def _end(self, now: float) -> None:
        """The session is over and nothing is to be tried again; what the Mac does next is by push or by NotNow."""
        self._move(Input.END)
        self._put_off = None
        if self.woken:
            self.deadline = now
        elif self._last_was_not_now and self._undelivered is None:
            self.deadline = now + max(_SHORTEST_SECONDS, self._timing.not_now)

    def _refused(self, failure: ServerRefused, unenrolled: bool, retry_after: float | None, now: float) -> Over:
        status = failure.status
        dropped = False
        if unenrolled:
            self.forget()
        elif is_temporary(status):
            self._move(Input.END)
            self._back_off(now, retry_after if status in (429, 503) else None)
        else:
            dropped = self._drop_refused()
            self._end(now)
        return Over(failure, unenrolled, dropped)

    def _drop_refused(self) -> bool:
        """The server refused the report; whether that was a result, and its last delivery."""
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
        if retry_after is not None and retry_after > 0.0:  # a date in the past asks for nothing
            delay = asked_wait(retry_after, self._timing.retry_after_longest)
        self.failures += 1
        self.deadline = now + max(_SHORTEST_SECONDS, delay)

    def _move(self, happened: Input) -> None:
        try:
            self.state = TABLE[self.state, happened]
        except KeyError:
            raise MisuseError(f"{happened.name} in the state {self.state.name}") from None
