"""Defects of the lab that lose a queued command; without one of them nothing is lost. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from agent.lab.defects import Defects
from agent.lab.stored.state import EnrolledMac

_LOST = "SecurityInfo"  # only commands of this type are lost


class Losing:
    """``forget`` removes a command, by UDID and CommandUUID, from its queue."""

    def __init__(self, defects: Defects, forget: Callable[[str, str], None]) -> None:
        self._defects = defects
        self._forget = forget
        self._sent: set[tuple[str, str]] = set()

    def queued(self, mac: EnrolledMac, request_type: str) -> None:
        """A command of this type is about to be queued."""
        if "push-offline-lost" in self._defects and request_type == _LOST:
            for command_uuid in _lost(mac):
                self._forget(mac.udid, command_uuid)

    def asked(self, mac: EnrolledMac) -> None:
        """A session begins: the Mac is about to get the first of its commands."""
        if "survive-command-lost" in self._defects:
            for command_uuid in _lost(mac):
                if (mac.udid, command_uuid) in self._sent:
                    self._forget(mac.udid, command_uuid)
                self._sent.add((mac.udid, command_uuid))


def _lost(mac: EnrolledMac) -> list[str]:
    return [command_uuid for command_uuid, each in mac.queue.items() if each.request_type == _LOST]
