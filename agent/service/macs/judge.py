"""Whether the server broke the protocol outside a session: in an enrollment, or in a check-in by itself."""

from __future__ import annotations

from collections.abc import Container, Mapping

from agent.errors import PeerError
from agent.measure.records import Exchange as Operation
from agent.service.macs.groups import Group, Groups, MacHandle
from agent.service.macs.records import Records
from agent.service.macs.watcher import Watcher, is_breach, is_breach_kind


class ServerJudge:
    """Reports what breaks it. ``watchers`` are those of the present groups, ``enrolling`` the UDIDs that enroll now."""

    def __init__(
        self, records: Records, groups: Groups, watchers: Mapping[Group, Watcher], enrolling: Container[str]
    ) -> None:
        self._records = records
        self._groups = groups
        self._watchers = watchers
        self._enrolling = enrolling

    def enroll_failed(self, handle: MacHandle, error: PeerError) -> None:
        """An enrollment failed."""
        mac, text = handle.mac, str(error)
        self._records.last_errors[mac.udid] = text
        data = {"kind": error.kind, "error": text}
        self._records.events.add(
            "enroll_failed", f"{mac.device_name} did not enroll: {text}.", udid=mac.udid, data=data
        )
        if is_breach(error) and mac.udid not in self._records.injected and handle.group in self._watchers:
            self._watchers[handle.group].breach(handle.index, error.kind, text)

    def ended(self, operation: Operation) -> None:
        """Report what a check-in outside an enrollment shows of the server."""
        failure, injected = operation.failure, self._records.injected
        if operation.operation != "checkin" or (not injected and failure is None):
            return
        udid = str(operation.facts.get("udid", ""))
        handle = None if udid in self._enrolling else self._groups.named(udid)
        if handle is None:
            return
        excused = udid in injected
        if handle.client.open_session is None:
            injected.discard(udid)  # the hit of this check-in excuses no other
        if failure is not None and not excused and is_breach_kind(failure):
            self._watchers[handle.group].breach(handle.index, failure.kind, failure.message)
