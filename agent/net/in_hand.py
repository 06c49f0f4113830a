"""The command that a Mac has in hand, from its reading until the server has taken the result: what its record says."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import PeerError
from agent.mdm.commands import Command
from agent.mdm.results import Result, Status
from agent.net.operations import Operation

_SHOWN = 200  # characters of a RequestType that a record repeats


class CommandFailed(PeerError):
    """A command ended in another status than Acknowledged or NotNow."""

    kind = "command"


@dataclass(slots=True)
class InHand:
    """A command and, once it is done, the status that it ended in. ``record`` is open until the server has that."""

    command: Command
    record: Operation
    status: Status = Status.ACKNOWLEDGED
    failure: CommandFailed | None = None
    result: Result | None = None

    @classmethod
    def malformed(cls, command_uuid: str, record: Operation, reason: str) -> InHand:
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
