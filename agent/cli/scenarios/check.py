"""The output of ``lom-agent scenario check``: the summary of each scenario, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from agent.errors import OperatorError
from agent.scenario.reading import read_scenario
from agent.scenario.types import Scenario
from agent.scenario.writing.summary import PhaseLine, Summary, length_words, summary


def check(files: Sequence[str], overrides: Sequence[str]) -> bool:
    """Print the summary of each file, and the errors on standard error; whether every scenario can be used."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=160)
    failed = False
    for number, file in enumerate(files):
        try:
            read = read_scenario(file, overrides)
        except OperatorError as error:
            click.echo(f"lom-agent: {error}", err=True)
            failed = True
            continue
        if number:
            console.print()
        _show(console, file, read, summary(read))
    return not failed


def _begins(phase: PhaseLine) -> str:
    if not phase.settled:
        return f"{length_words(phase.begins)} or later" if phase.begins else "then"
    return length_words(phase.begins) if phase.begins else "at once"


def _show(console: Console, file: str, read: Scenario, reported: Summary) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True)

    line(f"{read.name}: {read.description}" if read.description else f"{read.name} ({file})")
    facts = Table(box=None, show_header=False, pad_edge=False)
    for fact in reported.facts:
        facts.add_row(*fact)
    console.print(facts)
    phases = Table(box=None, pad_edge=False)
    for column in ("", "Phase", "Starts", "What", "How", "Duration"):
        phases.add_column(column, justify="right" if column in ("", "Starts", "Duration") else "left")
    for number, phase in enumerate(reported.phases):
        takes = length_words(phase.takes) if phase.known else "?"
        phases.add_row(str(number), phase.name, _begins(phase), phase.what, phase.how, takes)
    console.print(phases)
    for limit in read.limits:
        line(f"Limit: {limit}")
    for note in reported.notes:
        line(f"Note: {note}")
    least = "" if reported.known else "more than "
    tail = f", then up to {length_words(read.load.tail)} for operations in progress" if read.load.tail else ""
    line(f"The schedule takes {least}{length_words(reported.seconds)}{tail}.")
