"""``lom-agent scenario``: look at a scenario before it runs, begin a new one, print the reference."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from agent.errors import OperatorError
from agent.files import write_file
from agent.scenario.reading import read_scenario
from agent.scenario.reference import document
from agent.scenario.summary import PhaseLine, Summary, length_words, summary
from agent.scenario.template import USUAL_KINDS, template
from agent.scenario.types import PHASE_KINDS, Scenario

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Put a value over the file's, such as load.rate=50 or phase.patch.share=0.1. Repeatable.",
)


@click.group()
def scenario() -> None:
    """Write, check and understand scenarios: the TOML files that "lom-agent run FILE" runs.

    Begin with "lom-agent scenario new mine.toml", which writes a file with every key that there is. docs/scenario.md
    is the reference.
    """


@scenario.command("check", short_help="Say what scenarios come to, or what is wrong with them.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@set_option
def scenario_check(files: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Read scenarios as a run would, and say what they come to; nothing is started.

    For each: the fleet, the server, each phase with how many things at what rate over what time, and the limits. Exit
    status 2 where one cannot be used, with the key, what it takes and what was found.

    \b
        lom-agent scenario check fixtures/scenarios/*.toml
        lom-agent scenario check soak.toml --set fleet.devices=20 --set load.rate=5
    """
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
    if failed:
        sys.exit(2)


@scenario.command("new", short_help="Write a scenario to begin with.")
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(list(PHASE_KINDS)),
    help=f"A phase that it has; repeatable. Without it: {', '.join(USUAL_KINDS)}. Enrolment always comes first.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def scenario_new(file: str | None, kinds: tuple[str, ...], force: bool) -> None:
    """Write a scenario to begin with, to FILE or to standard output.

    It runs against the embedded lab as it is. Every key stands in it as a comment, with what it means and its default.

    \b
        lom-agent scenario new mine.toml --kind command --kind power_cut
        lom-agent scenario check mine.toml
        lom-agent run mine.toml
    """
    text = template(kinds or USUAL_KINDS)
    if file is None:
        click.echo(text, nl=False)
        return
    if not force and os.path.lexists(file):
        raise OperatorError(f"Expected no file {file}, found one. Give --force to replace it, or name another file.")
    write_file(Path(file), text.encode())
    click.echo(f"{file} is written. Look at it: lom-agent scenario check {file}")


@scenario.command("doc", short_help="Print the reference of every key.")
def scenario_doc() -> None:
    """Print the reference of every key, in Markdown; docs/scenario.md is this."""
    click.echo(document(), nl=False)


def _begins(phase: PhaseLine) -> str:
    if not phase.settled:
        return f"{length_words(phase.begins)} or later" if phase.begins else "then"
    return length_words(phase.begins) if phase.begins else "at once"


def _show(console: Console, file: str, read: Scenario, told: Summary) -> None:
    def line(text: str) -> None:
        console.print(text, soft_wrap=True)

    line(f"{read.name}: {read.description}" if read.description else f"{read.name} ({file})")
    facts = Table(box=None, show_header=False, pad_edge=False)
    for fact in told.facts:
        facts.add_row(*fact)
    console.print(facts)
    phases = Table(box=None, pad_edge=False)
    for column in ("", "Phase", "Begins", "What", "How", "Takes"):
        phases.add_column(column, justify="right" if column in ("", "Begins", "Takes") else "left")
    for number, phase in enumerate(told.phases):
        takes = length_words(phase.takes) if phase.known else "?"
        phases.add_row(str(number), phase.name, _begins(phase), phase.what, phase.how, takes)
    console.print(phases)
    for limit in read.limits:
        line(f"Limit: {limit}")
    for note in told.notes:
        line(f"Note: {note}")
    least = "" if told.known else "more than "
    tail = f", then up to {length_words(read.load.tail)} for what is under way" if read.load.tail else ""
    line(f"By schedule it takes {least}{length_words(told.seconds)}{tail}.")
