"""``lom-agent report``: its options. `agent.cli.results.reporting` makes the HTML report, or compares several runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli.signals import importing

REPORT_NAME = "report.html"
COMPARISON_NAME = "comparison.html"

MOST_PERCENT = 1000

_FAIL_ON = re.compile(r"regression(?::([0-9]{1,4}(?:\.[0-9]{1,3})?)%)?")


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
    with importing():
        from agent.cli.results.reporting import make_report
    regressed = make_report(results, out, merge, fail_on)
    if fail_on is not None and regressed:
        sys.exit(1)


def _threshold(text: str) -> float:
    """The share that ``--fail-on`` names. Raises BadParameter."""
    parts = _FAIL_ON.fullmatch(text)
    if parts is None or (parts[1] is not None and not 0 < float(parts[1]) <= MOST_PERCENT):
        raise click.BadParameter(
            f"expected regression or regression:N% with N above 0 and up to {MOST_PERCENT}; found {text!r}."
        )
    from agent.report.changes import THRESHOLD

    return THRESHOLD if parts[1] is None else float(parts[1]) / 100
