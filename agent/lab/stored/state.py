"""The persistent state of a lab, and the interface to its storage. No I/O.

``agent.lab.stored.store`` writes it to a file; ``NoStorage`` is for a lab without persistent state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import msgspec


class QueuedCommand(msgspec.Struct):
    """A command without a result."""

    request_type: str
    body: bytes
    """The command as an XML plist."""


class StoredResult(msgspec.Struct, frozen=True):
    """The result of a command."""

    status: str
    body: bytes
    """The result as an XML plist."""


class EnrolledMac(msgspec.Struct):
    """The lab's record of one Mac."""

    udid: str
    fingerprint: bytes
    """SHA-256 of the certificate that it enrolled with, or of that of its last renewal."""
    announcement: Mapping[str, Any]
    """The Authenticate message."""
    token: bytes = b""
    """Push token; empty until TokenUpdate."""
    push_magic: str = ""
    unregistered: bool = False
    """Whether APNs has said that the push token is no longer valid (410), since the last TokenUpdate."""
    bootstrap_token: bytes = b""
    queue: dict[str, QueuedCommand] = msgspec.field(default_factory=dict)
    """By CommandUUID, oldest first."""
    not_now: set[str] = msgspec.field(default_factory=set)
    """CommandUUIDs answered with NotNow in the current session."""
    results: dict[str, StoredResult] = msgspec.field(default_factory=dict)
    """By CommandUUID, oldest first."""
    status_report: bytes = b""
    """The last status report of declarative management."""

    @property
    def enrolled(self) -> bool:
        """Whether the enrollment is complete, including TokenUpdate."""
        return bool(self.token)

    def next_command(self) -> bytes:
        """The plist of the next command to send; empty if there is none."""
        return next((command.body for key, command in self.queue.items() if key not in self.not_now), b"")


class LabState(Protocol):
    """Storage of a lab's state. Each method is called before the lab changes its memory and answers, and is atomic.

    Each raises ``agent.lab.mdm.core.Refused`` (503) if the change cannot be written; the lab then leaves its state
    unchanged.
    """

    def macs(self) -> list[EnrolledMac]:
        """The stored Macs."""

    def enroll(self, mac: EnrolledMac) -> None:
        """Store a new or re-enrolled Mac, with an empty queue and no results."""

    def update(self, mac: EnrolledMac) -> None:
        """Store a changed certificate, tokens, PushMagic or status report."""

    def check_out(self, udid: str) -> None:
        """Delete a Mac with its queue and results."""

    def queue(self, udid: str, command_uuid: str, command: QueuedCommand) -> None:
        """Store a queued command."""

    def unqueue(self, udid: str, command_uuid: str) -> None:
        """Delete a queued command."""

    def answer(self, udid: str, command_uuid: str, result: StoredResult, dropped: Collection[str]) -> None:
        """Replace a queued command by its result, and delete the results of ``dropped``."""


class NoStorage:
    """A LabState that stores nothing."""

    def macs(self) -> list[EnrolledMac]:
        """No Macs."""
        return []

    def enroll(self, mac: EnrolledMac) -> None:
        """Do nothing."""

    def update(self, mac: EnrolledMac) -> None:
        """Do nothing."""

    def check_out(self, udid: str) -> None:
        """Do nothing."""

    def queue(self, udid: str, command_uuid: str, command: QueuedCommand) -> None:
        """Do nothing."""

    def unqueue(self, udid: str, command_uuid: str) -> None:
        """Do nothing."""

    def answer(self, udid: str, command_uuid: str, result: StoredResult, dropped: Collection[str]) -> None:
        """Do nothing."""
