"""``lom-agent run``: a fleet against a server, the lab or the operator's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console

from agent import __version__
from agent.cli.apns import apns_options, apns_plan
from agent.cli.options import make_folder, seed_option, segment_size_option
from agent.cli.reactor import run_until_done, the_reactor
from agent.fleet.durations import parse_duration
from agent.fleet.population import Population
from agent.load.fleet import BOOT, SHUTDOWN, Manners
from agent.load.metrics import Metrics
from agent.load.run import Run, RunPlan, read_anchors
from agent.load.trace import TraceFile, several
from agent.lom.power import parse_power_choices
from agent.mdm.session import DEFAULT_TIMING, NOT_NOW_RETRY_SECONDS
from agent.net.keys import parse_keys
from agent.net.lom_networks import LOOPBACK
from agent.report.results import ResourceMeter, RunInfo, results, write_results
from agent.report.terminal import make_progress, print_summary

POLL_SECONDS = 60.0  # ours: how often a Mac looks by itself where there is no push


@click.command()
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
    help="With --enroll: stay that long, for pushes (--apns) or to look for commands now and then.",
)
@click.option(
    "--poll",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --stay: how often each Mac looks for commands by itself; 60 without --apns, never with it.",
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
@click.option(
    "--lom-network",
    default=LOOPBACK,
    show_default=True,
    metavar="loopback|memory|interface:NAME[,NAME…][:PORT]",
    help="What carries the LOM link: TLS on [::1], nothing at all, or real interfaces (Linux, root).",
)
@click.option(
    "--boot",
    metavar="DURATION",
    help="How long a boot takes, in seconds: constant:3, uniform:1,3 (default) or lognormal:MEDIAN,SIGMA.",
)
@click.option(
    "--shutdown", metavar="DURATION", help="How long an orderly shutdown takes; uniform:0.2,1 where it is not said."
)
@click.option(
    "--power",
    multiple=True,
    metavar="CASE=CHOICE",
    help="What a LOM request does where Apple does not say, such as power_on_while_on=refuse. Repeatable.",
)
@apns_options
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
    apns = apns_plan(options, lab=options["enroll"] is None)
    out, trace = options["out"], options["trace"]
    if out is not None:
        make_folder(out)
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
        poll=options["poll"] if options["poll"] is not None or apns is not None else POLL_SECONDS,
        apns=apns,
        manners=_manners(options),
        lom_network=options["lom_network"],
    )
    started, began, meter = datetime.now(UTC), time.monotonic(), ResourceMeter()
    try:
        reactor = the_reactor()
        job = Run(reactor, plan)
        signal_number = run_until_done(reactor, job.run(), job.interrupt, progress.tick)
    finally:
        progress.close()
        if trace_file is not None:
            trace_file.close()
    info = RunInfo(__version__, seed, devices, started, time.monotonic() - began)
    resources = meter.read()
    print_summary(console, metrics, info, resources)
    document = results(metrics, info, resources)
    if job.push_counts is not None:
        document["push"] = job.push_counts
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


def _manners(options: Mapping[str, Any]) -> Manners:
    """How the Macs behave. Raises OperatorError for a duration or a choice that is none."""
    return Manners(
        not_now=options["not_now"],
        not_now_for=options["not_now_for"],
        timing=replace(DEFAULT_TIMING, not_now=options["not_now_retry"]),
        boot=BOOT if options["boot"] is None else parse_duration(options["boot"]),
        shutdown=SHUTDOWN if options["shutdown"] is None else parse_duration(options["shutdown"]),
        power=parse_power_choices(*options["power"]),
    )


def _check_combination(options: Mapping[str, Any]) -> None:
    """Options that say nothing without another one. Raises UsageError."""
    if options["enroll"] is None:
        for name in ("ca", "insecure", "stay"):
            if options[name]:
                raise click.UsageError(f"--{name} goes with --enroll: the embedded lab needs none")
    elif options["identity"] != "pkcs12":
        raise click.UsageError("--identity is about the lab's profile; with --enroll the server's profile decides")
