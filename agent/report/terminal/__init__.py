"""The output of a run on a terminal or in a log: its progress, and the summary at the end.

`display` selects how each `agent.measure.live.LiveView` is shown: `live` redraws the layout of `screen`, `plain` writes
lines for a log. At the end `summary` prints the results, with its `tables`. All of them pass text from peers and
scenarios through `text`.
"""

from agent.report.terminal.display import Display, make_display
from agent.report.terminal.summary import print_summary
from agent.report.terminal.text import visible

__all__ = ["Display", "make_display", "print_summary", "visible"]
