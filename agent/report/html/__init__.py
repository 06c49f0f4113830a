"""One HTML file for people: a run's report, or several runs side by side.

Documents come from `agent.report.results`; the file needs nothing from elsewhere and asks no other host for anything.
"""

from agent.report.html.page import MOST_RUNS, report_html, write_report

__all__ = ["MOST_RUNS", "report_html", "write_report"]
