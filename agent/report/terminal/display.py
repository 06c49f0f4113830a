"""The choice of a display: none, a live screen, or plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from rich.console import Console

from agent.measure.live import LiveView, RunObserver
from agent.report.terminal.live import LiveDisplay
from agent.report.terminal.plain import PlainDisplay
from agent.report.terminal.text import visible


class Display(RunObserver, Protocol):
    """Shows a run in progress."""

    def close(self) -> None:
        """Show the last state and restore the terminal; a second call does nothing."""


def make_display(console: Console, quiet: bool, clock: Callable[[], float]) -> Display:
    """A live screen on a terminal, otherwise a plain line every few seconds; only warnings if ``quiet``.

    ``clock`` returns monotonic seconds. The caller must call ``close`` at the end, also after an error: a live screen
    hides the cursor until then.
    """
    if quiet:
        return QuietDisplay()
    if console.is_interactive:
        return LiveDisplay(console, clock)
    return PlainDisplay(console, clock)


class QuietDisplay:
    """The display that shows nothing but warnings."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        print(f"Warning: {visible(text, sys.stderr.encoding)}", file=sys.stderr, flush=True)

    def look(self, view: LiveView) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""
