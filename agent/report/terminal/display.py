"""The choice of a display: none, a live screen, or plain lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rich.console import Console

from agent.measure.live import LiveView, MacWaits
from agent.report.terminal.live import LiveDisplay
from agent.report.terminal.plain import PlainDisplay


class Display(MacWaits, Protocol):
    """Shows a run in progress. A note is one line."""

    def close(self) -> None:
        """Show the last state and restore the terminal; a second call does nothing."""


def make_display(console: Console, quiet: bool, clock: Callable[[], float]) -> Display:
    """No display if ``quiet``, a live screen on a terminal, otherwise a plain line every few seconds.

    ``clock`` returns monotonic seconds. The caller must call ``close`` at the end, also after an error: a live screen
    hides the cursor until then.
    """
    if quiet:
        return QuietDisplay()
    if console.is_interactive:
        return LiveDisplay(console, clock)
    return PlainDisplay(console, clock)


class QuietDisplay:
    """The display that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def look(self, view: LiveView) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""
