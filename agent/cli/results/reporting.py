"""Makes the HTML report of a run, or compares several runs, for ``lom-agent report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from agent.cli.results.report import COMPARISON_NAME, REPORT_NAME
from agent.report.changes import THRESHOLD
from agent.report.compare import compare
from agent.report.html import write_report
from agent.report.merging import merge_documents
from agent.report.results import read_results, write_results
from agent.report.terminal.text import Indented, print_line, visible
from agent.report.verdict import Level, Statement, verdict

MOST_DETAILS = 10  # per statement; the HTML page has all

_STYLES = {Level.GOOD: "green", Level.NOTE: "", Level.WARNING: "yellow", Level.BAD: "red"}


def make_report(results: Sequence[str], out: Path | None, merge: Path | None, fail_on: float | None) -> bool:
    """Make the report; whether a run is worse than the first one by more than ``fail_on``."""
    documents = [read_results(path) for path in results]
    threshold = THRESHOLD if fail_on is None else fail_on
    regressed = False
    if merge is not None:
        documents, results = [merge_documents(documents)], [str(merge)]
        write_results(merge, documents[0])
    if len(documents) == 1:
        target = out or _beside(results[0])
        found = verdict(documents[0])
        headline, level, statements = found.headline, found.level, found.statements
    else:
        target = out or Path(COMPARISON_NAME)
        compared = compare(documents, threshold)
        regressed = compared.regressed
        headline, level, statements = compared.headline, compared.level, compared.statements
    path = write_report(target, documents, threshold)
    console = Console()
    _tell(console, headline, level, statements)
    print_line(console, f"Report: {path}")
    return regressed


def _beside(results: str) -> Path:
    path = Path(results)
    return (path if path.is_dir() else path.parent) / REPORT_NAME


def _tell(console: Console, headline: str, level: Level, statements: Sequence[Statement]) -> None:
    console.print(Text(visible(headline, console.encoding), style=f"bold {_STYLES[level]}".strip()), highlight=False)
    for statement in statements:
        _line(console, 2, statement.text, _STYLES[statement.level])
        for detail in statement.details[:MOST_DETAILS]:
            _line(console, 4, detail)
        if len(statement.details) > MOST_DETAILS:
            _line(console, 4, f"and {len(statement.details) - MOST_DETAILS} more in the report")


def _line(console: Console, columns: int, text: str, style: str = "") -> None:
    words = Text(visible(text, console.encoding), style=style)
    console.print(Indented(columns, words, [(" " * (columns - 2) + "- ", "")]), highlight=False)
