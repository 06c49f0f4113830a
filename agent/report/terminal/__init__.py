"""What a person at the terminal sees of a run: how far it is while it goes on, and what it came to at the end.

While it goes on, `display` picks who shows the `agent.measure.live.LiveView` of each second: `live` redraws what
`screen` lays out, `plain` writes lines for a log. At the end `summary` prints the results document, with its
`tables`. All of them put what others may have written through `text`.
"""

from agent.report.terminal.display import Display, make_display
from agent.report.terminal.summary import print_summary
from agent.report.terminal.text import visible

__all__ = ["Display", "make_display", "print_summary", "visible"]
