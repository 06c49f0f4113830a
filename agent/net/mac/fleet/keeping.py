"""How Macs outlive the process: what tells a Keeper of their changes, and the record of one Mac.

A Mac's report of a result, and each check-in of an enrollment, is sent when the Keeper has written the Mac: a process
that is killed then has lost no result that its server was owed, and no identity that its server knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from agent.device.stored.types import ActivityRecord


class Keeper(Protocol):
    """Writes the Macs of a fleet that have changed, by their indexes."""

    def changed(self, index: int) -> None:
        """Write Mac ``index`` soon."""

    def when_kept(self, index: int, then: Callable[[], object]) -> None:
        """Write Mac ``index``, then call ``then`` in a later turn of the reactor; never where it cannot be written."""


class MacRecord(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """What one Mac does, beside what is installed on it. Times are seconds from the moment of the record."""

    activity: ActivityRecord
    boots: int = 0
    offline: bool = False
    offline_left: float | None = None
    """Until it is online again by itself; None: not by itself."""
    off_subnet: bool = False
    request_type: str = ""
    """Of the command whose result is not delivered."""
    status: str = ""
    """Of that result."""
    user_request_type: str = ""
    """As ``request_type``, of the user channel."""
    user_status: str = ""
    """As ``status``, of the user channel."""
