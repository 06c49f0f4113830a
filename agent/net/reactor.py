"""What this room needs of the reactor, as types: Twisted's own interfaces are for zope, not for a type checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class DelayedCall(Protocol):
    """A call that is due later."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def cancel(self) -> None:
        """Forget it."""


class Clock(Protocol):
    """Time, and calls at a time."""

    def seconds(self) -> float:
        """Now, in seconds."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> DelayedCall:  # noqa: A002
        """Call after ``delay`` seconds."""


class Reactor(Clock, Protocol):
    """A reactor that watches descriptors: any of Twisted's on Unix."""

    def addReader(self, reader: Any) -> None:
        """Call ``reader.doRead`` when it can be read."""

    def removeReader(self, reader: Any) -> None:
        """No longer."""

    def addWriter(self, writer: Any) -> None:
        """Call ``writer.doWrite`` when it can be written."""

    def removeWriter(self, writer: Any) -> None:
        """No longer."""
