"""``lom-agent scenario``: check scenarios, write a new one, print the reference."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from agent.cli.signals import importing
from agent.errors import OperatorError
from agent.files import write_file
from agent.scenario.types import PHASE_KINDS
from agent.scenario.writing.reference import document
from agent.scenario.writing.template import DEFAULT_KINDS, template

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the scenario, such as load.rate=50 or phase.patch.share=0.1. Repeatable.",
)


@click.group()
def scenario() -> None:
    """Write and check scenarios, the TOML files for "lom-agent run".

    Start with "lom-agent scenario new mine.toml", which writes a file with every key. docs/scenario.md is the
    reference.
    """


@scenario.command("check", short_help="Check scenarios and print a summary (dry run).")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@set_option
def scenario_check(files: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Check scenarios as a run would, and print a summary of each (dry run).

    The summary has the fleet, the server, the number, rate and duration of the operations of each phase, and the
    limits. Exit status 2 if a scenario cannot be used; the error names the key, the expected value and the value found.

    \b
        lom-agent scenario check fixtures/scenarios/*.toml
        lom-agent scenario check soak.toml --set fleet.devices=20 --set load.rate=5
    """
    with importing():
        from agent.cli.scenarios.check import check
    if not check(files, overrides):
        sys.exit(2)


@scenario.command("new", short_help="Write a new scenario.")
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(list(PHASE_KINDS)),
    help=f"A phase of the scenario. Enrollment is always the first. Repeatable.  [default: {', '.join(DEFAULT_KINDS)}]",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def scenario_new(file: str | None, kinds: tuple[str, ...], force: bool) -> None:
    """Write a new scenario to FILE, or to standard output if FILE is absent or "-".

    It runs against the embedded lab without changes. Every key is in it as a comment, with its meaning and default.

    \b
        lom-agent scenario new mine.toml --kind command --kind power_cut
        lom-agent scenario check mine.toml
        lom-agent run mine.toml
    """
    text = template(kinds or DEFAULT_KINDS)
    if file in (None, "-"):
        click.echo(text, nl=False)
        return
    if not force and os.path.lexists(file):
        raise OperatorError(
            f"Expected a new file, found that {file} exists. Overwrite it with --force, or name another file."
        )
    write_file(Path(file), text.encode())
    click.echo(f"Written: {file}. Check it with: lom-agent scenario check {file}")


@scenario.command("doc", short_help="Print the reference of all keys.")
def scenario_doc() -> None:
    """Print the reference of all keys in Markdown, which is docs/scenario.md."""
    click.echo(document(), nl=False)
