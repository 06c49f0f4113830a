"""The command ``lom-agent``: reads the operator's words, picks the reactor, turns what happened into an exit status.

Exit status: 0 all good; 1 an operation failed; 2 wrong usage or input; 130 stopped by Ctrl-C (143 by SIGTERM).
"""

from __future__ import annotations

import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click
from rich.console import Console

from agent import __version__
from agent.device.answering import answer_command
from agent.errors import OperatorError, PeerError
from agent.fleet.population import DEFAULT_SEGMENT_SIZE, Population
from agent.load.metrics import Metrics
from agent.load.run import Run, RunPlan
from agent.load.trace import TraceFile, several
from agent.lom.requests import Dialect
from agent.report.results import RunInfo, resources_used, results, write_results
from agent.report.terminal import ProgressDisplay, make_progress, print_summary

DEFAULT_SEED = "lom-agent"
_TICK_SECONDS = 0.25
_MAX_COMMAND_BYTES = 8 * 1024 * 1024

seed_option = click.option(
    "--seed",
    default=DEFAULT_SEED,
    show_default=True,
    metavar="TEXT",
    help="Everything about the Macs follows from this text: the same seed makes the same fleet on any machine.",
)
segment_size_option = click.option(
    "--segment-size",
    type=click.IntRange(min=1),
    default=DEFAULT_SEGMENT_SIZE,
    show_default=True,
    metavar="N",
    help="Macs in one segment (subnet). The first of each is its LOM Controller.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="lom-agent")
def cli() -> None:
    """Simulate fleets of Macs with lights-out management (LOM) towards an Apple MDM server.

    Start with "lom-agent run": 100 Macs enrol in an embedded MDM server, are set up for LOM, and are reset through
    their LOM Controllers.

    Exit status: 0 all good, 1 an operation failed, 2 wrong usage or input, 130 stopped by Ctrl-C.
    """


@cli.command()
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="How many Macs to simulate.",
)
@segment_size_option
@seed_option
@click.option("--out", type=click.Path(file_okay=False), metavar="DIR", help="Write results.json into this folder.")
@click.option("--trace", type=click.Path(dir_okay=False), metavar="FILE", help="Write a JSON line for each exchange.")
@click.option("--quiet", is_flag=True, help="No progress; the table at the end only.")
def run(devices: int, segment_size: int, seed: str, out: str | None, trace: str | None, quiet: bool) -> None:
    """Run the main job: enrol, set up LOM, reset every Mac through its Controller.

    Starts the embedded MDM server (the lab) on loopback, so nothing else is needed. Every message crosses a TLS socket.
    """
    population = Population(seed, devices, segment_size)
    if out is not None:
        _check_folder(out)
    trace_file = None if trace is None else TraceFile(trace)
    console = Console()
    metrics = Metrics()
    progress = make_progress(console, quiet, time.monotonic)
    observer = metrics if trace_file is None else several(metrics, trace_file)
    started, began = datetime.now(UTC), time.monotonic()
    try:
        signal_number = _run_reactor(RunPlan(population, observer, progress), progress)
    finally:
        progress.close()
        if trace_file is not None:
            trace_file.close()
    info = RunInfo(__version__, seed, devices, started, time.monotonic() - began)
    resources = resources_used()
    print_summary(console, metrics, info, resources)
    if out is not None:
        path = write_results(out, results(metrics, info, resources))
        console.print(f"Results: {path}", markup=False, highlight=False, soft_wrap=True)
    if signal_number is not None:
        sys.exit(128 + signal_number)
    if metrics.failures():
        sys.exit(1)


@cli.group()
def fleet() -> None:
    """Look at the Macs of a seed."""


@fleet.command("show")
@click.option(
    "--devices", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many Macs to show."
)
@segment_size_option
@seed_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def fleet_show(devices: int, segment_size: int, seed: str, as_json: bool) -> None:
    """Show the Macs that a seed makes."""
    population = Population(seed, devices, segment_size)
    if as_json:
        _write_json_array(mac.as_json() for mac in population)
        return
    _show_table(population)


@cli.command()
@click.argument("command", type=click.File("rb"), metavar="COMMAND.plist")
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="INDEX",
    help="Which Mac of the fleet answers.",
)
@segment_size_option
@seed_option
@click.option(
    "--dialect",
    type=click.Choice([dialect.value for dialect in Dialect]),
    default=Dialect.SCHEMA.value,
    show_default=True,
    help="Answer LOM commands with the keys of Apple's schema, or of the example on Apple's page.",
)
def answer(command: IO[bytes], device: int, segment_size: int, seed: str, dialect: str) -> None:
    """Print what one Mac would answer to a command, as the XML plist that it would PUT.

    The Mac is enrolled with every access right, and is a LOM Device and a LOM Controller; the other Macs of its segment
    are there too. COMMAND.plist is the plist a server would send ("-" reads standard input).
    """
    octets = command.read(_MAX_COMMAND_BYTES + 1)
    population = Population(seed, device + segment_size, segment_size)
    sys.stdout.buffer.write(answer_command(population, device, octets, Dialect(dialect)))


def main() -> None:
    """Run the command line; every error of ours is one line on standard error."""
    try:
        cli()
    except (OperatorError, PeerError) as error:
        click.echo(f"lom-agent: {error}", err=True)
        sys.exit(2)


def _run_reactor(plan: RunPlan, progress: ProgressDisplay) -> int | None:
    """Run the job in the reactor; the signal that stopped it, if one did."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred
    from twisted.internet.task import LoopingCall
    from twisted.python.failure import Failure

    reactor: Any = installed
    job = Run(reactor, plan)
    stopped_by: list[int] = []
    problems: list[Failure] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped_by.append(number)
        reactor.callFromThread(job.interrupt)

    def ended(outcome: object) -> None:
        if isinstance(outcome, Failure):
            problems.append(outcome)
        reactor.stop()

    def begin() -> None:
        LoopingCall(progress.tick).start(_TICK_SECONDS).addErrback(problems.append)
        Deferred.fromCoroutine(job.run()).addBoth(ended)

    reactor.callWhenRunning(begin)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if problems:
        problems[0].raiseException()
    return stopped_by[0] if stopped_by else None


def _check_folder(out: str) -> None:
    """Make the folder now, so that a run does not end without a place for its results. Raises OperatorError."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"the folder {out} for the results cannot be made: {error.strerror}") from error


def _write_json_array(items: Any) -> None:
    """Write a JSON array item by item, so that a fleet of a million needs no memory."""
    separator = "[\n"
    for item in items:
        click.echo(separator + json.dumps(item), nl=False)
        separator = ",\n"
    click.echo("\n]")


def _show_table(population: Population) -> None:
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


if __name__ == "__main__":
    main()
