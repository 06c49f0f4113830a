"""``lom-agent report``: the HTML report of a run, or a comparison of several runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from agent.report.changes import THRESHOLD
from agent.report.compare import compare
from agent.report.merging import merge_documents
from agent.report.results import read_results, write_results
from agent.report.terminal.text import Indented, print_line, visible
from agent.report.verdict import Level, Statement, verdict

REPORT_NAME = "report.html"
COMPARISON_NAME = "comparison.html"
MOST_DETAILS = 10  # per statement; the HTML page has all

MOST_PERCENT = 1000

_FAIL_ON = re.compile(r"regression(?::([0-9]{1,4}(?:\.[0-9]{1,3})?)%)?")
_STYLES = {Level.GOOD: "green", Level.NOTE: "", Level.WARNING: "yellow", Level.BAD: "red"}


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="DIR_OR_FILE...")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help=f"The file to write.  [default: {REPORT_NAME} beside the results, or {COMPARISON_NAME} in this folder]",
)
@click.option(
    "--merge",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Merge the runs, as one run on several machines, and write results.json and the report into this folder.",
)
@click.option(
    "--fail-on",
    metavar="regression[:N%]",
    callback=lambda _context, _option, text: None if text is None else _threshold(text),
    help="Exit with status 1 if a run is worse than the first, times and rates by more than N % (default 10), or if "
    "the two are not comparable.",
)
def report(results: Sequence[str], out: Path | None, merge: Path | None, fail_on: float | None) -> None:
    """Make the HTML report of a run again, or compare several runs.

    DIR_OR_FILE is a results.json, or its folder (--out of the run). One run gives its report; several runs give a
    comparison of each with the first. The page is a single self-contained file.
    """
    if fail_on is not None and (len(results) < 2 or merge is not None):
        raise click.UsageError("--fail-on compares runs: name two or more, without --merge.")
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
    from agent.report.html import write_report

    path = write_report(target, documents, threshold)
    console = Console()
    _tell(console, headline, level, statements)
    print_line(console, f"Report: {path}")
    if fail_on is not None and regressed:
        sys.exit(1)


def _threshold(text: str) -> float:
    """The share that ``--fail-on`` names. Raises BadParameter."""
    parts = _FAIL_ON.fullmatch(text)
    if parts is None or (parts[1] is not None and not 0 < float(parts[1]) <= MOST_PERCENT):
        raise click.BadParameter(
            f"expected regression or regression:N% with N above 0 and up to {MOST_PERCENT}; found {text!r}."
        )
    return THRESHOLD if parts[1] is None else float(parts[1]) / 100


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
