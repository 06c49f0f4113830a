"""What a person at the terminal sees of a run: how far it is while it goes on, and what it came to at the end.

While it goes on, `display` picks who shows the `agent.load.live.LiveView` of each second: `live` redraws the screen that
`screen` lays out, `plain` writes lines for a log. At the end `summary` prints the results document. All of them put
text through `text`.
"""

from agent.report.terminal.display import Display, make_display
from agent.report.terminal.summary import print_summary
from agent.report.terminal.text import visible

__all__ = ["Display", "make_display", "print_summary", "visible"]
