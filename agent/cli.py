"""The command ``lom-agent``: reads the operator's words, picks the reactor, turns what happened into an exit status.

Exit status: 0 all good; 1 an operation failed; 2 wrong usage or input; 130 stopped by Ctrl-C (143 by SIGTERM).
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from agent import __version__
from agent.device.answering import answer_command
from agent.errors import OperatorError, PeerError
from agent.fleet.population import DEFAULT_SEGMENT_SIZE, Population
from agent.lab.authorities import Authorities
from agent.lab.core import Lab
from agent.lab.server import LabServer
from agent.load.fleet import Manners
from agent.load.metrics import Metrics
from agent.load.run import Run, RunPlan, read_anchors
from agent.load.trace import TraceFile, several
from agent.lom.requests import Dialect
from agent.mdm.session import DEFAULT_TIMING, NOT_NOW_RETRY_SECONDS
from agent.net.keys import parse_keys
from agent.report.files import write_secret
from agent.report.results import RunInfo, resources_used, results, write_results
from agent.report.terminal import make_progress, print_summary

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
@click.option(
    "--enroll",
    metavar="FILE_OR_URL",
    help="Enrol in the server that gave out this enrolment profile, instead of the embedded lab.",
)
@click.option(
    "--identity",
    type=click.Choice(["pkcs12", "scep"]),
    default="pkcs12",
    show_default=True,
    help="How the lab's profile gives a Mac its identity.",
)
@click.option(
    "--keys",
    default="unique",
    show_default=True,
    metavar="unique|pool:N",
    help="RSA keys for SCEP: one for each Mac, or N that the whole fleet shares (faster; less like real Macs).",
)
@click.option(
    "--ca",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="A CA certificate (PEM or DER) to trust for the server, beside the system's and the profile's. Repeatable.",
)
@click.option("--insecure", is_flag=True, help="Take any certificate of the server for good. For experiments only.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="R", help="Begin R enrolments a second, no faster."
)
@click.option(
    "--enroll-retries",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Try a Mac's failed enrolment up to N times more.",
)
@click.option(
    "--stay",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="With --enroll: stay that long and look for commands now and then.",
)
@click.option(
    "--poll",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="With --stay: how often each Mac looks for commands.",
)
@click.option(
    "--not-now",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="P",
    help="Answer NotNow with this probability, from 0 to 1.",
)
@click.option(
    "--not-now-for",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Answer NotNow for that long from the start.",
)
@click.option(
    "--not-now-retry",
    type=click.FloatRange(min=0, min_open=True),
    default=NOT_NOW_RETRY_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long after NotNow a Mac asks again by itself.",
)
@click.option("--out", type=click.Path(file_okay=False), metavar="DIR", help="Write results.json into this folder.")
@click.option("--trace", type=click.Path(dir_okay=False), metavar="FILE", help="Write a JSON line for each exchange.")
@click.option("--quiet", is_flag=True, help="No progress; the table at the end only.")
def run(devices: int, segment_size: int, seed: str, **options: Any) -> None:
    """Run a fleet of Macs against an MDM server.

    Without --enroll it starts an embedded server (the lab) on loopback and runs the main job: enrol, set up LOM, reset
    every Mac through its Controller. With --enroll the Macs enrol in your server and look for commands there.
    Every message crosses a TLS socket.
    """
    population = Population(seed, devices, segment_size)
    key_pool = parse_keys(options["keys"])
    _check_combination(options)
    anchors = read_anchors(options["ca"])
    out, trace = options["out"], options["trace"]
    if out is not None:
        _check_folder(out)
    trace_file = None if trace is None else TraceFile(trace)
    console = Console()
    metrics = Metrics()
    progress = make_progress(console, options["quiet"], time.monotonic)
    plan = RunPlan(
        population,
        observer=metrics if trace_file is None else several(metrics, trace_file),
        progress=progress,
        enroll=options["enroll"],
        scep=options["identity"] == "scep",
        anchors=anchors,
        insecure=options["insecure"],
        key_pool=key_pool,
        rate=options["rate"],
        retries=options["enroll_retries"],
        stay=options["stay"],
        poll=options["poll"],
        manners=Manners(
            options["not_now"], options["not_now_for"], replace(DEFAULT_TIMING, not_now=options["not_now_retry"])
        ),
    )
    started, began = datetime.now(UTC), time.monotonic()
    try:
        reactor = _reactor()
        job = Run(reactor, plan)
        signal_number = run_until_done(reactor, job.run(), job.interrupt, progress.tick)
    finally:
        progress.close()
        if trace_file is not None:
            trace_file.close()
    info = RunInfo(__version__, seed, devices, started, time.monotonic() - began)
    resources = resources_used()
    print_summary(console, metrics, info, resources)
    document = results(metrics, info, resources)
    if key_pool is not None:
        document["keys"] = {"pool": key_pool, "reused": job.keys_reused}
        console.print(
            f"RSA keys: a pool of {key_pool}; {job.keys_reused} identities got a key that another one has, too."
        )
    if out is not None:
        path = write_results(out, document)
        console.print(f"Results: {path}", markup=False, highlight=False, soft_wrap=True)
    if signal_number is not None:
        sys.exit(128 + signal_number)
    if metrics.failures():
        sys.exit(1)


@cli.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="The HTTPS port; 0: any free one."
)
@click.option(
    "--identity",
    type=click.Choice(["pkcs12", "scep"]),
    default="pkcs12",
    show_default=True,
    help="How the enrolment profile gives a Mac its identity.",
)
@click.option(
    "--scep-port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="The SCEP port; 0: any free one."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write ca.pem, enrolment.mobileconfig and the API's token into this folder.",
)
def lab(port: int, identity: str, scep_port: int, out: str | None) -> None:
    """Run the embedded MDM server alone, in the foreground, until Ctrl-C.

    It listens on loopback. Its API queues commands and reads their results; docs/lab-api.md describes it.
    """
    reactor = _reactor()
    server = LabServer(reactor, Lab(), Authorities(), scep=identity == "scep")
    server.listen(port, scep_port)
    _print_lab(server, out)
    stopped: Deferred[None] = Deferred()

    async def stay() -> None:
        await stopped
        await server.close()

    def interrupt() -> None:
        if not stopped.called:
            stopped.callback(None)

    signal_number = run_until_done(reactor, stay(), interrupt, lambda: None)
    if signal_number is not None:
        sys.exit(128 + signal_number)


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


def _reactor() -> Any:
    """Twisted's reactor for this system. Only the command line picks one."""
    from twisted.internet import reactor

    return reactor


def run_until_done(
    reactor: Any, coroutine: Coroutine[Any, Any, None], interrupt: Callable[[], object], tick: Callable[[], object]
) -> int | None:
    """Run ``coroutine`` in the reactor; the number of the signal that ended it early, if one did.

    On SIGINT or SIGTERM ``interrupt`` is called, which has to bring the coroutine to its end. ``tick`` is called
    about four times a second. An error of the coroutine is raised here.
    """
    stopped_by: list[int] = []
    problems: list[Failure] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped_by.append(number)
        reactor.callFromThread(interrupt)

    def ended(outcome: object) -> None:
        if isinstance(outcome, Failure):
            problems.append(outcome)
        reactor.stop()

    def begin() -> None:
        LoopingCall(tick).start(_TICK_SECONDS).addErrback(problems.append)
        Deferred.fromCoroutine(coroutine).addBoth(ended)

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


def _print_lab(server: LabServer, out: str | None) -> None:
    pem = server.authorities.anchor.public_bytes(Encoding.PEM).decode("ascii")
    click.echo(f"MDM server:        {server.url}")
    click.echo(f"Enrolment profile: {server.enrolment_url}")
    if server.scep_url:
        click.echo(f"SCEP:              {server.scep_url}")
    click.echo(f"API:               {server.url}/api/v1/macs")
    if out is None:
        click.echo(f"API token:         {server.token}")
        click.echo(f"CA certificate:\n{pem}", nl=False)
    else:
        folder = Path(out)
        _check_folder(out)
        ca, token, profile = folder / "ca.pem", folder / "token", folder / "enrolment.mobileconfig"
        ca.write_text(pem, encoding="ascii")
        write_secret(token, server.token.encode("ascii") + b"\n")
        write_secret(profile, server.enrolment_profile())
        click.echo(f"API token:         {token}")
        click.echo(f"CA certificate:    {ca}")
        click.echo(f"One profile:       {profile}")
        click.echo(f"Try: lom-agent run --devices 1 --enroll {server.enrolment_url} --ca {ca}")
    click.echo("Ctrl-C ends it.")


def _check_combination(options: Mapping[str, Any]) -> None:
    """Options that say nothing without another one. Raises UsageError."""
    if options["enroll"] is None:
        for name in ("ca", "insecure", "stay"):
            if options[name]:
                raise click.UsageError(f"--{name} goes with --enroll: the embedded lab needs none")
    elif options["identity"] != "pkcs12":
        raise click.UsageError("--identity is about the lab's profile; with --enroll the server's profile decides")


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
