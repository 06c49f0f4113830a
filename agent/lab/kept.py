"""What of a lab outlives its process: the interface between the lab and where its state is written. No I/O.

``agent.lab.store`` writes it to a file; ``Forgetful`` is for a lab that ends with its process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True)
class QueuedCommand:
    """A command that waits for its result: its plist."""

    request_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class KeptResult:
    """A command's result: its Status, and the XML plist."""

    status: str
    body: bytes


@dataclass(slots=True)
class EnrolledMac:
    """One Mac as the lab knows it. ``fingerprint`` is the SHA-256 of the certificate that it enrolled with.

    ``queue`` and ``results`` are by CommandUUID, the oldest first. ``not_now`` are the commands that the Mac put off,
    until its next session.
    """

    udid: str
    fingerprint: bytes
    announcement: Mapping[str, Any]
    token: bytes = b""
    push_magic: str = ""
    bootstrap_token: bytes = b""
    queue: dict[str, QueuedCommand] = field(default_factory=dict)
    not_now: set[str] = field(default_factory=set)
    results: dict[str, KeptResult] = field(default_factory=dict)
    status_report: bytes = b""

    @property
    def enrolled(self) -> bool:
        """Whether the enrolment is complete: TokenUpdate came too."""
        return bool(self.token)

    def next_command(self) -> bytes:
        """What the Mac gets next; empty where there is nothing for now."""
        return next((command.body for key, command in self.queue.items() if key not in self.not_now), b"")


class LabState(Protocol):
    """Called before the lab changes what it knows, and before it answers. Each call is written whole or not at all.

    Each raises ``agent.lab.core.Refused`` (503) where it cannot be written; then the lab stays as it was.
    """

    def macs(self) -> list[EnrolledMac]:
        """The Macs of an earlier process."""

    def enrol(self, mac: EnrolledMac) -> None:
        """A Mac enrols, for the first time or anew: nothing is queued for it and no result is kept."""

    def update(self, mac: EnrolledMac) -> None:
        """Tokens, PushMagic or the status report have changed."""

    def check_out(self, udid: str) -> None:
        """A Mac is forgotten, with its queue and its results."""

    def queue(self, udid: str, command_uuid: str, command: QueuedCommand) -> None:
        """A command waits for its Mac."""

    def unqueue(self, udid: str, command_uuid: str) -> None:
        """A command is taken out of the queue without a result."""

    def answer(self, udid: str, command_uuid: str, result: KeptResult, dropped: Collection[str]) -> None:
        """A result takes the place of its command; the results of ``dropped`` are forgotten."""


class Forgetful:
    """Keeps nothing."""

    def macs(self) -> list[EnrolledMac]:
        """None."""
        return []

    def enrol(self, mac: EnrolledMac) -> None:
        """Nothing is written."""

    def update(self, mac: EnrolledMac) -> None:
        """Nothing is written."""

    def check_out(self, udid: str) -> None:
        """Nothing is written."""

    def queue(self, udid: str, command_uuid: str, command: QueuedCommand) -> None:
        """Nothing is written."""

    def unqueue(self, udid: str, command_uuid: str) -> None:
        """Nothing is written."""

    def answer(self, udid: str, command_uuid: str, result: KeptResult, dropped: Collection[str]) -> None:
        """Nothing is written."""
