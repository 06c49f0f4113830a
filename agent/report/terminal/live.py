"""The progress of a run on a terminal: the screen of `agent.report.terminal.screen`, redrawn in place."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from agent.measure.live import LiveView
from agent.report.terminal.screen import LastScreen, Screen
from agent.report.terminal.text import print_line

REDRAW_SECONDS = 0.25  # at least, between two redraws


class LiveDisplay:
    """Redraws only in ``look``: there is no thread."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._view: LiveView | None = None
        self._drawn: float | None = None
        self._live = Live(
            console=console,
            auto_refresh=False,
            vertical_overflow="crop",
            get_renderable=self._screen,
            # Other output to the terminal goes above the screen; output that is redirected to a file stays there.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._open = False

    def note(self, text: str) -> None:
        """Print ``text`` as one line above the screen."""
        print_line(self._console, text)

    def warn(self, text: str) -> None:
        """Print a warning as one line above the screen."""
        print_line(self._console, f"Warning: {text}")

    def look(self, view: LiveView) -> None:
        """Redraw at most every REDRAW_SECONDS; the first view opens the screen."""
        self._view = view
        now = self._clock()
        if self._drawn is not None and now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        if not self._open:
            self._open = True
            self._live.start()
        self._live.refresh()

    def close(self) -> None:
        """Leave the progress of the phases on the terminal and show the cursor again."""
        if self._open:
            self._open = False
            self._live.stop()

    def _screen(self) -> RenderableType:
        if self._view is None:
            return ""
        # The numbers of the last seconds differ from those of the whole run, which the summary shows next.
        return Screen(self._view) if self._open else LastScreen(self._view)
