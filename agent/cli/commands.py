"""The commands of ``lom-agent``, and how their errors are told."""

from __future__ import annotations

import click

from agent import __version__
from agent.cli.answer import answer
from agent.cli.apns_identity import apns_identity
from agent.cli.fleet import fleet
from agent.cli.lab import lab
from agent.cli.lom import lom_device, lom_identity, lom_request
from agent.cli.report import report
from agent.cli.run import run
from agent.cli.scenario import scenario
from agent.errors import OperatorError, PeerError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="lom-agent")
def cli() -> None:
    """Simulate fleets of Macs with lights-out management (LOM) towards an Apple MDM server.

    Start with "lom-agent run": 100 Macs enrol in an embedded MDM server, are set up for LOM, and are reset through
    their LOM Controllers. Then "lom-agent scenario new my.toml", and "lom-agent run my.toml".

    Exit status: 0 all good, 1 an operation failed or a limit is broken, 2 wrong usage or input; 130
    stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """


for command in (run, scenario, report, fleet, answer, lab, lom_device, lom_request, lom_identity, apns_identity):
    cli.add_command(command)


def run_command_line() -> int:
    """Run the command that the arguments name; its exit status. Raises SystemExit where click or a command has one."""
    try:
        cli()
    except (OperatorError, PeerError) as error:
        click.echo(f"lom-agent: {error}", err=True)
        return 2
    return 0
