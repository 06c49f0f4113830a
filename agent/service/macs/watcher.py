"""Turns what the Macs do into the events and answers of the service."""

from __future__ import annotations

from typing import Any

from agent import plists
from agent.errors import MisuseError, PeerError
from agent.lom.link import LinkRequest
from agent.mdm.refusals import ResultRefused, ServerRefused, is_temporary
from agent.mdm.results import Result, Status
from agent.measure.exchanges import decoded
from agent.measure.records import Failure
from agent.net.mac.sessions.commands import CurrentCommand, MacObserver, ObservedMac
from agent.push.store import Notification
from agent.service.macs.groups import Group, MacHandle
from agent.service.macs.records import Records
from agent.service.macs.views import power_state
from agent.service.types import Answer, Event, EventKind

# The kinds of errors that are the network's, this program's, or an answer that the protocol provides for.
NO_BREACH = frozenset(
    {"connect", "connect_timeout", "tls", "tls_timeout", "broken", "dns", "stopped", "offline", "key", "unenrolled"}
)
_UNKNOWN_DEVICE = (401, 403)


def is_breach(error: PeerError) -> bool:
    """Whether the server broke the protocol: it answered, and not as it may."""
    if isinstance(error, ServerRefused):
        return not is_temporary(error.status) and error.status not in _UNKNOWN_DEVICE
    return is_breach_kind(Failure.of(error))


def is_breach_kind(failure: Failure) -> bool:
    """The same of a failure whose HTTP status is not known."""
    return not failure.timed_out and failure.kind not in NO_BREACH and failure.kind != ServerRefused.kind


class Watcher(MacObserver):
    """Is called by the Macs of one group."""

    def __init__(self, group: Group, records: Records) -> None:
        self._group = group
        self._records = records
        self._powers: dict[int, str] = {}

    def enrolled(self, mac: ObservedMac) -> None:
        """The Mac is enrolled."""
        handle = self._handle(mac)
        enrollment = handle.client.device.enrollment
        self._records.last_errors.pop(handle.udid, None)
        topic = "" if enrollment is None else enrollment.topic
        self._add("enrolled", handle, "is enrolled", data={"topic": topic})

    def left(self, mac: ObservedMac, why: str) -> None:
        """The Mac is no longer enrolled."""
        self._add("unenrolled", self._handle(mac), f"is no longer enrolled: {why}", data={"reason": why})

    def pushed(self, mac: ObservedMac, notification: Notification) -> None:
        """The Mac accepted a push."""
        data = {"apns_id": notification.apns_id, "topic": notification.topic}
        self._add("pushed", self._handle(mac), "got a push", data=data)

    def session_started(self, mac: ObservedMac) -> None:
        """The Mac opens a session."""
        handle = self._handle(mac)
        self._records.injected.discard(handle.udid)
        self._add("session_started", handle, "opens a session")

    def session_ended(self, mac: ObservedMac, failure: PeerError | None) -> None:
        """A session ended."""
        handle = self._handle(mac)
        error = "" if failure is None else str(failure)
        if failure is None:
            self._records.last_errors.pop(handle.udid, None)
        else:
            self._records.last_errors[handle.udid] = error
        text = f"ended its session: {error}" if error else "ended its session"
        self._add("session_ended", handle, text, data={"error": error})
        if failure is not None and handle.udid not in self._records.injected and is_breach(failure):
            self._breach(handle, failure.kind, error)
        self._records.injected.discard(handle.udid)

    def received(self, mac: ObservedMac, command: CurrentCommand) -> None:
        """The server sent a command."""
        request_type = command.command.request_type
        self._add_of_command("command", self._handle(mac), f"got {_words(request_type)}", command)

    def answered(self, mac: ObservedMac, command: CurrentCommand) -> None:
        """The Mac has the result of a command."""
        handle, result = self._handle(mac), command.result
        status, request_type = command.status.value, command.command.request_type
        body = _body(result)
        errors = [] if result is None else [error.description for error in result.errors]
        self._records.answers.add(
            Answer(
                number=self._records.events.last + 1,
                at=self._records.now(),
                udid=handle.udid,
                command_uuid=command.command.uuid,
                request_type=request_type,
                status=status,
                errors=errors,
                body=body,
            )
        )
        # After the answer is kept: whoever waits for the event may look for it.
        text = f"answers {_words(request_type)} with {status}"
        self._add_of_command("answered", handle, text, command, status=status, data={"body": body})
        if command.status is Status.COMMAND_FORMAT_ERROR and result is None:
            self._breach(handle, "command_format", str(command.failure))

    def taken(self, mac: ObservedMac, command: CurrentCommand) -> None:
        """The server accepted the result of a command."""
        handle, status = self._handle(mac), command.status.value
        self._records.answers.delivered(handle.udid, command.command.uuid)
        text = f"delivered {status} to {_words(command.command.request_type)}"
        self._add_of_command("delivered", handle, text, command, status=status)

    def refused(self, mac: ObservedMac, command: CurrentCommand, failure: ResultRefused) -> None:
        """The server refused a result for the last time."""
        text = f"drops a result: {failure}"
        data = {"error": str(failure)}
        self._add_of_command("refused", self._handle(mac), text, command, status=command.status.value, data=data)

    def power_changed(self, mac: ObservedMac) -> None:
        """The power state changed."""
        handle = self._handle(mac)
        state = power_state(handle.client.device)
        if self._powers.get(handle.index, "on") != state:
            self._powers[handle.index] = state
            text = "has no mains power" if state == "no_mains" else f"is {state.replace('_', ' ')}"
            self._add("power", handle, text, status=state)

    def asked(self, mac: ObservedMac, request: LinkRequest, controller: str, error: str) -> None:
        """The Mac answered a LOM request as Device."""
        data = {"request": request.request.value, "controller": controller, "uuid": request.uuid, "error": error}
        text = f"got {request.request.value} from its Controller {controller}" + (f": {error}" if error else "")
        self._add("lom_request", self._handle(mac), text, data=data)

    def knows(self, index: int, power: str) -> None:
        """The Mac has this power state already."""
        self._powers[index] = power

    def forget(self, index: int) -> None:
        """The Mac was reset: it is on again."""
        self._powers.pop(index, None)

    def _handle(self, mac: ObservedMac) -> MacHandle:
        return MacHandle(self._group, mac.index)

    def breach(self, index: int, kind: str, error: str) -> None:
        """The server broke the protocol outside a session."""
        self._breach(MacHandle(self._group, index), kind, error)

    def _breach(self, handle: MacHandle, kind: str, error: str) -> None:
        data = {"kind": kind, "error": error}
        self._add("protocol_error", handle, f"found that the server broke the protocol: {error}", data=data)

    def _add(
        self, kind: EventKind, handle: MacHandle, text: str, *, status: str = "", data: dict[str, Any] | None = None
    ) -> Event:
        mac = handle.client.device.mac
        return self._records.events.add(kind, f"{mac.device_name} {text}.", udid=mac.udid, status=status, data=data)

    def _add_of_command(
        self,
        kind: EventKind,
        handle: MacHandle,
        text: str,
        current: CurrentCommand,
        *,
        status: str = "",
        data: dict[str, Any] | None = None,
    ) -> Event:
        mac, command = handle.client.device.mac, current.command
        return self._records.events.add(
            kind,
            f"{mac.device_name} {text}.",
            udid=mac.udid,
            command_uuid=command.uuid,
            request_type=command.request_type,
            status=status,
            data=data,
        )


def _words(request_type: str) -> str:
    return request_type or "a malformed command"


def _body(result: Result | None) -> dict[str, Any]:
    """The response keys of a result as JSON-able data, without secrets."""
    if result is None or not result.answer:
        return {}
    try:
        body = decoded(plists.dump_xml(result.answer))
    except MisuseError:  # a value that no property list can hold: the Mac reports an Error result instead
        return {}
    return body if isinstance(body, dict) else {}
