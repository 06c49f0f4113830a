"""``lom-agent answer``: the response of one Mac to a command, without a server."""

from __future__ import annotations

import sys
from typing import IO

import click

from agent.cli.scenarios.options import scenario_option
from agent.cli.signals import importing
from agent.fleet.population import Population
from agent.lom.requests import Dialect

_MAX_COMMAND_BYTES = 8 * 1024 * 1024


@click.command()
@click.argument("command", type=click.File("rb"), metavar="COMMAND.plist")
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="INDEX",
    help="Which Mac of the fleet responds.",
)
@scenario_option("--segment-size")
@scenario_option("--seed")
@scenario_option("--os")
@scenario_option("--model")
@click.option(
    "--dialect",
    type=click.Choice([dialect.value for dialect in Dialect]),
    default=Dialect.SCHEMA.value,
    show_default=True,
    help="Respond to LOM commands with the keys of Apple's schema, or of the example on Apple's page.",
)
@click.option(
    "--channel",
    type=click.Choice(["device", "user"]),
    default="device",
    show_default=True,
    help="The channel on which the command comes: that of the device, or that of its logged-in user.",
)
@click.option(
    "--unsupervised",
    is_flag=True,
    help="The Mac is enrolled with a profile that does not supervise it.",
)
def answer(
    command: IO[bytes],
    device: int,
    segment_size: int,
    seed: str,
    os: str | None,
    model: str | None,
    dialect: str,
    channel: str,
    unsupervised: bool,
) -> None:
    """Print what one Mac would answer to a command, as the XML plist that it would PUT.

    The Mac is enrolled by Automated Device Enrollment, without --unsupervised, with every access right, and is a LOM
    Device and a LOM Controller; the other Macs of its segment exist too. COMMAND.plist is the plist that a server would
    send ("-" reads standard input).
    """
    with importing():
        from agent.device.answering import answer_command
    octets = command.read(_MAX_COMMAND_BYTES + 1)
    population = Population(seed, device + segment_size, segment_size, os=os, model=model)
    sys.stdout.buffer.write(
        answer_command(population, device, octets, Dialect(dialect), _warn, channel, supervised=not unsupervised)
    )


def _warn(text: str) -> None:
    click.echo(f"Warning: {text}", err=True)
