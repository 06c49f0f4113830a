"""Defects of the lab in how it takes results; without one of them each is taken as it should be. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.lab.defects import Defects
from agent.lab.mdm.messages import Refused
from agent.lab.stored.state import EnrolledMac, QueuedCommand
from agent.mdm import results


class ResultDefects:
    """The defects of one lab that concern results."""

    def __init__(self, defects: Defects) -> None:
        self._defects = defects
        self._repeated: set[tuple[str, str]] = set()  # commands that a defect has sent once more

    def drops(self, queued: QueuedCommand) -> bool:
        """Whether a defect ends this command at NotNow."""
        setup = queued.request_type == "LOMSetupRequest"
        return ("lom-setup-not-now-dropped" if setup else "session-not-now-dropped") in self._defects

    def check(self, mac: EnrolledMac, status: str, command_uuid: str, message: Mapping[str, Any]) -> None:
        """Refuse a result that a defect does not survive. Raises Refused."""
        if "ResponseData" in message and "lom-example-refused" in self._defects:
            raise Refused(500, "the result has ResponseData")
        known = command_uuid in mac.queue
        if known and status == results.Status.ERROR.value and "session-error-refused" in self._defects:
            raise Refused(500, "the result is an Error")
        format_error = status == results.Status.COMMAND_FORMAT_ERROR.value
        if known and format_error and "session-format-error-refused" in self._defects:
            raise Refused(500, "the result is a CommandFormatError")
        if command_uuid in mac.results and "session-second-result-refused" in self._defects:
            raise Refused(400, "the result came before")
        if known and "survive-bare-500" in self._defects and message.get("QueryResponses") == {}:
            raise Refused(500, "QueryResponses is empty")
        unknown = not known and command_uuid not in mac.results
        if unknown and "session-unknown-result-refused" in self._defects:
            raise Refused(500, "the command is unknown")

    def repeats(self, mac: EnrolledMac, message: Mapping[str, Any], command_uuid: str, request_type: str) -> bool:
        """Whether a defect sends this command again although its result is there; once for each command."""
        status, items = message["Status"], message.get("ResponseList")
        if request_type != "LOMDeviceRequest":
            wanted = "session-command-repeated" in self._defects and status == results.Status.ACKNOWLEDGED.value
        elif status == results.Status.ERROR.value:
            wanted = "lom-request-error-repeated" in self._defects
        elif items is None:
            wanted = "lom-example-repeated" in self._defects
        else:
            failed = any(item["DeviceRequestSuccess"] is False for item in items)
            wanted = failed and "lom-partial-repeated" in self._defects
        if not wanted or (mac.udid, command_uuid) in self._repeated:
            return False
        self._repeated.add((mac.udid, command_uuid))
        return True
