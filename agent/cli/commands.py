"""The commands of ``lom-agent``, each imported when it is used, and how their errors are printed."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import NamedTuple

import click

from agent import __version__
from agent.cli.signals import importing
from agent.errors import OperatorError, PeerError


class Entry(NamedTuple):
    """Where a command is, and its line in the list of commands."""

    place: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "answer": Entry(
        "macs.answer:answer", "Print what one Mac would answer to a command, as the XML plist that it would PUT."
    ),
    "apns-identity": Entry(
        "apns.identity:apns_identity", "Make the CA of the push gateway, and a push certificate for tests."
    ),
    "attestation-root": Entry(
        "macs.attestation:attestation_root", "Print the root certificate of the simulated Macs' attestations."
    ),
    "conform": Entry("conform.command:conform", "Check an MDM server against the requirements of Apple's documents."),
    "fleet": Entry("macs.fleet:fleet", "Show the Macs of a seed."),
    "lab": Entry("lab.command:lab", "Run the embedded MDM server in the foreground until Ctrl-C."),
    "lom-device": Entry(
        "lom.commands:lom_device", "Run LOM Devices in the foreground until Ctrl-C, to test your own Controller."
    ),
    "lom-identity": Entry(
        "lom.commands:lom_identity",
        "Write a LOM identity of a seed as PEM files, for OpenSSL and for your own programs.",
    ),
    "lom-request": Entry(
        "lom.commands:lom_request", "Send one power request to the LOM Device NAME, to test your own Device."
    ),
    "report": Entry("results.report:report", "Make the HTML report of a run again, or compare several runs."),
    "run": Entry("run.command:run", "Run a fleet of Macs against an MDM server."),
    "scenario": Entry("scenarios.commands:scenario", 'Write and check scenarios, the TOML files for "lom-agent run".'),
    "serve": Entry("serve.command:serve", "Run Macs that other programs control over HTTP, until Ctrl-C."),
    "worker": Entry(
        "worker.command:worker", "Join a run that was started on another machine, and run a part of its fleet here."
    ),
}


class LazyGroup(click.Group):
    """A group that lists its commands from ``COMMANDS`` and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None for a name that is not in the table."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        with importing():
            command: click.Command = resolve_name(f"{__package__}.{entry.place}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in sorted(COMMANDS)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="lom-agent")
def cli() -> None:
    """Simulate fleets of Macs with lights-out management (LOM), to load-test and check Apple MDM servers.

    Start with "lom-agent run": 100 Macs enroll in an embedded MDM server, are set up for LOM, and are reset through
    their LOM Controllers. Then write a scenario, "lom-agent scenario new my.toml", and run it, "lom-agent run my.toml".

    Exit status: 0 success; 1 an operation failed or a limit failed; 2 wrong usage or input; 130 stopped by Ctrl-C,
    143 by SIGTERM, 129 by SIGHUP.
    """


def run_command_line() -> int:
    """Run the command that the arguments name; its exit status. Raises SystemExit where click or a command has one."""
    try:
        cli()
    except (OperatorError, PeerError) as error:
        click.echo(f"lom-agent: {error}", err=True)
        return 2
    return 0
