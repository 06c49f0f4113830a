"""How a Mac carries out a command: what the device needs for it is obtained, and what came of it goes into a record.

One command at a time: it is in hand from its reading until the server has taken its result. The session brings the
commands and reports the results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure as TwistedFailure

from agent.device.commands import CommandSteps, carry_out
from agent.device.mac import Device
from agent.device.steps import Done, carry
from agent.errors import CutShort, MisuseError, PeerError
from agent.mdm.commands import Command
from agent.mdm.refusals import ResultRefused
from agent.mdm.results import Result, Status
from agent.measure.operations import Operation
from agent.net.mac.background import BackgroundTasks, log_defect
from agent.net.mac.environment import Environment

_SHOWN = 200  # characters of a RequestType that a record repeats


class CommandFailed(PeerError):
    """A command ended in another status than Acknowledged or NotNow."""

    kind = "command"


@dataclass(slots=True)
class CurrentCommand:
    """A command and, once it is done, the status that it ended in. ``record`` is open until the server has that."""

    command: Command
    record: Operation
    status: Status = Status.ACKNOWLEDGED
    failure: CommandFailed | None = None
    result: Result | None = None

    @classmethod
    def malformed(cls, command_uuid: str, record: Operation, reason: str) -> CurrentCommand:
        """What was to be a command, and is answered with CommandFormatError."""
        return cls(
            Command(command_uuid, "", {}),
            record,
            Status.COMMAND_FORMAT_ERROR,
            CommandFailed(f"{Status.COMMAND_FORMAT_ERROR.value}: {reason}"),
        )

    def done(self, result: Result) -> None:
        """Note what came of it."""
        self.status = result.status
        self.result = result
        if result.status not in (Status.ACKNOWLEDGED, Status.NOT_NOW):
            reason = "; ".join(error.description for error in result.errors) or "no reason given"
            self.failure = CommandFailed(f"{self.command.request_type}: {result.status.value}: {reason}")

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """What the trace tells of it."""
        return {
            "request_type": self.command.request_type[:_SHOWN],
            "command_uuid": self.command.uuid,
            "status": self.status.value,
        }


Report = Callable[[str, Result], object]  # CommandUUID and result


class Commands:
    """The commands of one Mac. Whoever watches it is told of each result that the server took."""

    __slots__ = ("_background", "_current", "_device", "_environment", "_life", "_performing", "_watched")

    def __init__(self, device: Device, environment: Environment, background: BackgroundTasks, watched: Watched) -> None:
        self._device = device
        self._environment = environment
        self._background = background
        self._watched = watched
        self._current: CurrentCommand | None = None
        self._performing: Deferred[Any] | None = None
        self._life = 0  # whatever was begun in an earlier one is not wanted any more

    @property
    def quiet(self) -> bool:
        """Whether none is in hand."""
        return self._current is None

    def execute(self, command: Command, report: Report) -> None:
        """Carry a command out and report its result, now or when the steps are done that lead to it."""
        self._current = CurrentCommand(command, self._begin())
        outcome = carry_out(self._device, command)
        if isinstance(outcome, Result):
            self._finish(outcome, report)
        else:
            self._step(outcome, None, report)

    def malformed(self, command_uuid: str, reason: str) -> None:
        """What was to be a command is in hand, and answered already."""
        self._current = CurrentCommand.malformed(command_uuid, self._begin(), reason)

    def taken(self) -> None:
        """The server took the report that was sent last, and with it the result of the command in hand, if any is."""
        work, self._current = self._current, None
        if work is None:
            return
        watched = self._watched
        work.record.end(work.failure, work.facts)
        if watched.watch is not None:
            watched.watch.taken(watched, work)

    def refused(self, reason: str) -> None:
        """The server refused the result of the command in hand for the last time."""
        work, self._current = self._current, None
        request_type = work.command.request_type if work is not None else ""
        failure = ResultRefused(f"the result of {request_type or 'a command'} is dropped: {reason}")
        record = self._environment.begin("command", self._watched.index) if work is None else work.record
        record.end(failure, None if work is None else work.facts)

    def stop(self) -> None:
        """The Mac stops in the middle of a command: what it relays breaks off, and there will be no result."""
        self._life += 1
        performing, self._performing = self._performing, None
        if performing is not None:
            performing.cancel()

    def forget(self, reason: str) -> None:
        """The server will take no result of the command in hand, for this reason, and nobody has failed."""
        work, self._current = self._current, None
        if work is not None:
            work.record.end(CutShort(reason), work.facts)

    def rest(self) -> None:
        """None is in hand: give up what the last one left behind."""
        self._performing = None

    def _begin(self) -> Operation:
        self.forget("another command took its place")
        return self._environment.begin("command", self._watched.index)

    def _step(self, steps: CommandSteps, answer: Any, report: Report) -> None:
        need = carry(steps, answer)
        if isinstance(need, Done):
            self._finish(need.value, report)
            return
        self._performing = Deferred.fromCoroutine(self._background.perform(need))
        self._performing.addCallback(self._stepped, steps, self._life, report).addErrback(_stopped_or_defect)

    def _stepped(self, answer: Any, steps: CommandSteps, life: int, report: Report) -> None:
        if life == self._life:
            self._step(steps, answer, report)
        else:
            steps.close()  # the Mac went down meanwhile; the server still has the command

    def _finish(self, result: Result, report: Report) -> None:
        work = self._current
        if work is None:
            raise MisuseError("a result without a command")
        self._environment.warn_each(self._device.take_warnings())
        work.done(result)
        report(work.command.uuid, result)


def _stopped_or_defect(failure: TwistedFailure) -> None:
    if not isinstance(failure.value, CancelledError):
        log_defect(failure)


class Watched(Protocol):
    """A Mac that can be watched. ``index`` is its place in the fleet; ``watch`` hears what it has done."""

    index: int
    watch: Watch | None


class Watch(Protocol):
    """Who is told what a Mac has done. Called in the middle of its work: no word to the Mac before the next turn."""

    def taken(self, client: Watched, work: CurrentCommand) -> None:
        """The server took the result of a command."""

    def session_over(self, client: Watched, failure: PeerError | None) -> None:
        """A session came to its end, in good order or because of ``failure``."""

    def went_down(self, client: Watched) -> None:
        """The Mac does not run any more; a session that was open has no end."""
