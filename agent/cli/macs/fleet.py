"""``lom-agent fleet``: show the Macs of a seed."""

from __future__ import annotations

import json
from typing import Any

import click

from agent.cli.scenarios.options import scenario_option
from agent.fleet.population import Population


@click.group()
def fleet() -> None:
    """Show the Macs of a seed."""


@fleet.command("show")
@click.option(
    "--devices", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many Macs to show."
)
@scenario_option("--segment-size")
@scenario_option("--seed")
@scenario_option("--os")
@scenario_option("--model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def fleet_show(devices: int, segment_size: int, seed: str, os: str | None, model: str | None, as_json: bool) -> None:
    """Show the Macs of a seed."""
    population = Population(seed, devices, segment_size, os=os, model=model)
    if as_json:
        _write_json_array(mac.as_json() for mac in population)
        return
    _show_table(population)


def _write_json_array(items: Any) -> None:
    """Write a JSON array item by item, so that the memory does not depend on the size of the fleet."""
    separator = "[\n"
    for item in items:
        click.echo(separator + json.dumps(item), nl=False)
        separator = ",\n"
    click.echo("\n]")


def _show_table(population: Population) -> None:
    from rich.console import Console  # after the options are read, so that --help is fast
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("Index", "Segment", "Serial number", "Model", "macOS", "LOM name", "Primary IPv6", "Roles"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("Index", "Segment") else "left")
    for mac in population:
        table.add_row(
            str(mac.index),
            str(mac.segment),
            mac.serial_number,
            f"{mac.model_name} ({mac.model})",
            mac.os_version,
            mac.dns_name,
            " ".join(mac.primary_ipv6),
            " ".join(mac.roles),
        )
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)
