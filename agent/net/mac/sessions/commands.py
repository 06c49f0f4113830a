"""A Mac's commands: each is carried out, its result is reported, and its record ends when the server has the result.

One command at a time is current, from its reception until the server has accepted its result. The session
(`agent.net.mac.sessions.sessions`) receives the commands and sends the results. What a command needs from the network
(SCEP, LOM requests, check-ins) is done by the Mac's BackgroundTasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure as TwistedFailure

from agent.device.commands import carry_out
from agent.device.mac import Device
from agent.device.steps import AttestProperties, CommandSteps, Done, advance
from agent.errors import CutShort, MisuseError, PeerError
from agent.faults.decisions import Hit
from agent.lom.link import LinkRequest
from agent.mdm.commands import Command
from agent.mdm.refusals import ResultRefused
from agent.mdm.results import Result, Status
from agent.measure.operations import Operation
from agent.net.mac.faults.attesting import attest_properties
from agent.net.mac.faults.injection import result_of
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.sessions.background import BackgroundTasks, log_defect
from agent.net.mac.sessions.exchanging import record_instead
from agent.push.store import Notification

_MAX_REQUEST_TYPE = 200  # characters of a RequestType in a record; ours


class CommandFailed(PeerError):
    """A command ended in another status than Acknowledged or NotNow."""

    kind = "command"


class CurrentCommand(msgspec.Struct):
    """A command, and its result once it is carried out."""

    command: Command
    record: Operation
    """Open until the server has accepted the result, or never will."""
    status: Status = Status.ACKNOWLEDGED
    failure: CommandFailed | None = None
    result: Result | None = None
    hit: Hit | None = None
    """The fault rule that hit it."""

    @classmethod
    def malformed(cls, command_uuid: str, record: Operation, reason: str) -> CurrentCommand:
        """A malformed command, which is answered with CommandFormatError."""
        return cls(
            Command(command_uuid, "", {}),
            record,
            Status.COMMAND_FORMAT_ERROR,
            CommandFailed(f"{Status.COMMAND_FORMAT_ERROR.value}: {reason}"),
        )

    def done(self, result: Result) -> None:
        """Set the result."""
        self.status = result.status
        self.result = result
        if result.status not in (Status.ACKNOWLEDGED, Status.NOT_NOW):
            reason = "; ".join(error.description for error in result.errors) or "no reason given"
            self.failure = CommandFailed(f"{self.command.request_type}: {result.status.value}: {reason}")

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """The fields of its line in the trace."""
        facts: dict[str, str | int | float | bool] = {
            "request_type": self.command.request_type[:_MAX_REQUEST_TYPE],
            "command_uuid": self.command.uuid,
            "status": self.status.value,
        }
        return facts if self.command.channel == "device" else {**facts, "channel": self.command.channel}


Report = Callable[[str, Result, Hit | None], object]  # CommandUUID, result, and the fault of its report


class Commands:
    """The commands of one Mac, ``mac``."""

    __slots__ = ("_background", "_current", "_device", "_environment", "_life", "_mac", "_performing")

    def __init__(
        self, device: Device, environment: Environment, background: BackgroundTasks, mac: SimulatedMac
    ) -> None:
        self._device = device
        self._environment = environment
        self._background = background
        self._mac = mac
        self._current: CurrentCommand | None = None
        self._performing: Deferred[Any] | None = None
        self._life = 0  # counts the stops: requests from before the last stop are dropped

    @property
    def current(self) -> CurrentCommand | None:
        """The command in progress, or whose result the server does not have yet."""
        return self._current

    @property
    def quiet(self) -> bool:
        """Whether there is no current command."""
        return self._current is None

    @property
    def undelivered(self) -> CurrentCommand | None:
        """The current command, if its result is known and not yet accepted by the server."""
        current = self._current
        return None if current is None or (current.result is None and current.failure is None) else current

    def execute(self, command: Command, report: Report) -> None:
        """Carry a command out and report its result, now or when the requests that it needs are answered."""
        self._current = CurrentCommand(command, self._begin())
        self._tell_received(self._current)
        if self._environment.faults is None or not self._injected(self._current, report):
            self._carry_out(command, report)

    def _injected(self, current: CurrentCommand, report: Report) -> bool:
        """Apply the fault rule that hits the command, if any; returns whether the command is not to be carried out."""
        hit = current.hit = self._environment.decide("command", self._device.mac, current.command.request_type)
        if hit is None:
            return False
        result = result_of(hit.rule)
        if result is not None:
            self._finish(result, report)
            return True
        if hit.rule.do not in ("delay", "offline", "crash"):
            return False  # a fault of the report
        seconds = hit.rule.seconds or 0.0 if hit.rule.do == "delay" else 0.0
        self._performing = deferLater(self._environment.clock, seconds, self._instead, hit, current, report)  # type: ignore[arg-type]
        self._performing.addErrback(_stopped_or_defect)
        return True

    def _instead(self, hit: Hit, current: CurrentCommand, report: Report) -> None:
        if hit.rule.do != "delay":  # a late report shows it itself
            facts = {"request_type": current.command.request_type, "command_uuid": current.command.uuid}
            record_instead(self._environment, self._device.mac, hit, **facts)
        match hit.rule.do:
            case "offline":
                self._mac.go_offline(hit.rule.seconds or 0.0)
            case "crash":
                self._mac.crash()
            case _:
                self._carry_out(current.command, report)

    def _carry_out(self, command: Command, report: Report) -> None:
        outcome = carry_out(self._device, command)
        if isinstance(outcome, Result):
            self._finish(outcome, report)
        else:
            self._step(outcome, None, report)

    def malformed(self, command_uuid: str, reason: str) -> None:
        """A malformed command was received; the session has answered it with CommandFormatError."""
        self._current = current = CurrentCommand.malformed(command_uuid, self._begin(), reason)
        self._tell_received(current)
        if self._mac.observer is not None:
            self._mac.observer.answered(self._mac, current)

    def resume(self, command: Command, status: Status) -> None:
        """Continue with a command whose result another process had, and has not delivered."""
        record = self._environment.begin("command", self._mac.index)
        self._current = CurrentCommand(command, record)
        self._current.done(Result(status))

    def taken(self) -> None:
        """The server accepted the last report, and with it the result of the current command, if there is one."""
        current, self._current = self._current, None
        if current is None:
            return
        mac = self._mac
        current.record.end(current.failure, current.facts)
        if mac.observer is not None:
            mac.observer.taken(mac, current)

    def refused(self, reason: str) -> None:
        """The server refused the result of the current command for the last time."""
        mac, (current, self._current) = self._mac, (self._current, None)
        if current is None:
            failure = ResultRefused(f"the result of a command is dropped: {reason}")
            self._environment.begin("command", mac.index).end(failure)
            return
        failure = ResultRefused(f"the result of {current.command.request_type or 'a command'} is dropped: {reason}")
        current.record.end(failure, current.facts)
        if mac.observer is not None:
            mac.observer.refused(mac, current, failure)

    def stop(self) -> None:
        """Stop carrying out the current command: its requests are cancelled, and it gets no result."""
        self._life += 1
        performing, self._performing = self._performing, None
        if performing is not None:
            performing.cancel()

    def forget(self, reason: str) -> None:
        """The result of the current command will not be delivered, for this reason; its record is cut short."""
        current, self._current = self._current, None
        if current is not None:
            current.record.end(CutShort(reason), current.facts)

    def free_memory(self) -> None:
        """Free the memory of the last command; there is no current one."""
        self._performing = None

    def _tell_received(self, current: CurrentCommand) -> None:
        if self._mac.observer is not None:
            self._mac.observer.received(self._mac, current)

    def _begin(self) -> Operation:
        self.forget("another command took its place")
        return self._environment.begin("command", self._mac.index)

    def _step(self, steps: CommandSteps, answer: Any, report: Report) -> None:
        need = advance(steps, answer)
        while isinstance(need, AttestProperties):
            chain, hit = attest_properties(self._device, self._environment, need.nonce)
            if hit is not None and self._current is not None:
                self._current.hit = self._current.hit or hit
            need = advance(steps, chain)
        if isinstance(need, Done):
            self._finish(need.value, report)
            return
        self._performing = Deferred.fromCoroutine(self._background.perform(need))
        self._performing.addCallback(self._stepped, steps, self._life, report).addErrback(_stopped_or_defect)

    def _stepped(self, answer: Any, steps: CommandSteps, life: int, report: Report) -> None:
        if life == self._life:
            self._step(steps, answer, report)
        else:
            steps.close()  # stopped meanwhile; the server still has the command

    def _finish(self, result: Result, report: Report) -> None:
        current = self._current
        if current is None:
            raise MisuseError("expected a current command for a result, found none")
        self._environment.warn_each(self._device.take_warnings())
        current.done(result)
        if self._mac.observer is not None:
            self._mac.observer.answered(self._mac, current)
        report(current.command.uuid, result, current.hit)


def _stopped_or_defect(failure: TwistedFailure) -> None:
    if not isinstance(failure.value, CancelledError):
        log_defect(failure)


class ObservedMac(Protocol):
    """A Mac that can have an observer."""

    index: int
    """Its index in the population."""

    @property
    def observer(self) -> MacObserver | None:
        """What is called with what it does."""


class SimulatedMac(ObservedMac, Protocol):
    """A Mac that a fault rule can stop."""

    @property
    def online(self) -> bool:
        """Whether it can connect to its server, as far as its network goes."""

    def go_offline(self, seconds: float) -> None:
        """Close its connections to the server and open none for this long."""

    def crash(self) -> None:
        """Lose power, and boot again."""

    def session_over(self) -> None:
        """A session has ended, and the Mac is still enrolled."""

    def end_user_channel(self, reason: str) -> None:
        """The enrollment ends, and with it the user channel."""


class MacObserver:
    """Is called with what one or more Macs do, while a Mac works: it must not call the Mac before the next turn.

    The methods of this class do nothing.
    """

    def enrolled(self, mac: ObservedMac) -> None:
        """The Mac is enrolled, possibly again."""

    def left(self, mac: ObservedMac, why: str) -> None:
        """The Mac is no longer enrolled."""

    def pushed(self, mac: ObservedMac, notification: Notification) -> None:
        """The Mac accepted a push."""

    def session_started(self, mac: ObservedMac) -> None:
        """The Mac opens a session."""

    def received(self, mac: ObservedMac, command: CurrentCommand) -> None:
        """The server sent a command, which is carried out now. A malformed one has no request type."""

    def answered(self, mac: ObservedMac, command: CurrentCommand) -> None:
        """The Mac has the result of a command and sends it. The server may not accept it."""

    def taken(self, mac: ObservedMac, command: CurrentCommand) -> None:
        """The server accepted the result of a command."""

    def refused(self, mac: ObservedMac, command: CurrentCommand, failure: ResultRefused) -> None:
        """The server refused the result of a command for the last time, and the Mac dropped it."""

    def session_ended(self, mac: ObservedMac, failure: PeerError | None) -> None:
        """A session ended, without an error or with ``failure``."""

    def went_down(self, mac: ObservedMac) -> None:
        """The Mac is off. A session that was open has been reported as over, cut short."""

    def power_changed(self, mac: ObservedMac) -> None:
        """The power state changed, or the mains were cut or restored."""

    def asked(self, mac: ObservedMac, request: LinkRequest, controller: str, error: str) -> None:
        """The Mac answered a LOM request of this Controller as Device, with ``error`` or, where empty, success."""
