"""One HTML file for people: the report of a run, or the comparison of several.

Documents come from `agent.report.results`. The file is self-contained: it makes no requests.
"""

from agent.report.html.page import MOST_RUNS, report_html, write_report

__all__ = ["MOST_RUNS", "report_html", "write_report"]
