"""``lom-agent run``: a scenario against a server, from its TOML file or from the options alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console

from agent.cli.apns import apns_options, apns_plan
from agent.cli.default_scenario import scenario_of
from agent.cli.options import seed_option, segment_size_option
from agent.cli.outcome import Outcome, Outputs
from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.signals import Stopping, printing
from agent.errors import OperatorError
from agent.load.conductor import Conductor
from agent.load.machine import cores, workers_of
from agent.measure.live import LiveView
from agent.measure.trace import TraceParts
from agent.processes import ProcessEach
from agent.report.terminal import Display, make_display
from agent.scenario.types import Scenario
from agent.service.prometheus import PrometheusExporter, parse_listen
from agent.unix import check_unix

FIRST_CHECKPOINT_SECONDS = 2.0
CHECKPOINT_SECONDS = 15.0  # between two writings of the results so far, for the case that the run is killed


@click.command()
@click.argument("scenario", required=False, type=click.Path(dir_okay=False), metavar="[SCENARIO.toml]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the scenario, such as load.rate=50 or phase.enroll.rate=20. Repeatable; docs/scenario.md.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), metavar="N", help="Worker processes that share the fleet; 0: one a core."
)
@click.option("--devices", type=click.IntRange(min=1), metavar="N", help="How many Macs to simulate.  [default: 100]")
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
    help="How the lab's profile gives a Mac its identity.  [default: pkcs12]",
)
@click.option(
    "--keys",
    metavar="unique|pool:N",
    help="RSA keys for SCEP: one for each Mac (default), or N that the fleet shares (faster; less like real Macs).",
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
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Begin R enrolments a second, whatever the server says.",
)
@click.option(
    "--enroll-retries", type=click.IntRange(min=0), metavar="N", help="Try a Mac's failed enrolment up to N times more."
)
@click.option(
    "--stay",
    type=click.FloatRange(min=0),
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
    "--not-now", type=click.FloatRange(0, 1), metavar="P", help="Answer NotNow with this probability, from 0 to 1."
)
@click.option(
    "--not-now-for",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Answer NotNow for that long from the start.",
)
@click.option(
    "--not-now-retry",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long after NotNow a Mac asks again by itself.  [default: 60]",
)
@click.option(
    "--lom-network",
    metavar="loopback|memory|interface:NAME[,NAME…][:PORT]",
    help="What carries the LOM link: TLS on [::1] (default), nothing at all, or real interfaces (Linux, root).",
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
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write results.json and report.html into this folder.",
)
@click.option("--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Write the limits as JUnit test cases.")
@click.option("--trace", type=click.Path(dir_okay=False), metavar="FILE", help="Write a JSON line for each exchange.")
@click.option("--prometheus", metavar="ADDRESS:PORT", help="Serve the run's figures at /metrics here while it goes on.")
@click.option("--quiet", is_flag=True, help="No progress; the summary at the end only.")
def run(scenario: str | None, **options: Any) -> None:
    """Run a fleet of Macs against an MDM server.

    With SCENARIO.toml the phases of that file are run; "lom-agent scenario new" writes one. Without it an embedded
    server (the lab) on loopback is started, and the Macs enrol, are set up for LOM and power one another; with --enroll
    they enrol in your server and look for commands there. Every message crosses a TLS socket.

    A run fails (exit status 1) where a limit of the scenario is broken, where an operation failed of whose errors no
    limit says how many may, and where it did not come to its end.
    """
    check_unix()
    with Stopping() as stopping:
        plan = scenario_of(scenario, options, click.get_current_context())
        outputs = Outputs.of(options)
        outputs.check()
        console = Console()
        display = make_display(console, options["quiet"], time.monotonic)
        outcome = _run(plan, outputs, display, options["prometheus"], stopping)
        with printing():
            outcome.tell(console)
    sys.exit(outcome.exit_status)


def _run(scenario: Scenario, outputs: Outputs, display: Display, prometheus: str | None, stopping: Stopping) -> Outcome:
    workers = workers_of(scenario)
    apns = apns_plan(scenario)
    trace = TraceParts(outputs.trace)
    reactor = the_reactor()
    exporter = None if prometheus is None else PrometheusExporter(reactor, *parse_listen(prometheus))
    executor = ProcessEach()
    outcome = Outcome(scenario, outputs, datetime.now(UTC))
    watchers = _Watchers(display, exporter)
    conductor = Conductor(
        reactor,
        scenario,
        executor,
        workers,
        watchers,
        apns=apns,
        trace=trace.path_of,
        cores=cores(),
        kill=executor.kill,
    )
    stopping.last = executor.kill
    watchers.checkpoint = lambda: outcome.checkpoint(conductor)

    async def job() -> None:
        if exporter is not None:
            exporter.listen()
            watchers.note(f"Prometheus finds the figures at {exporter.url}")
        try:
            await conductor.run()
        finally:
            if exporter is not None:
                await exporter.close()

    def interrupt() -> None:
        conductor.interrupt()
        watchers.note("Stopping. Ctrl-C again waits for no worker any more.")

    try:
        signal_number = run_until_done(reactor, job(), interrupt, stopping=stopping, abandon=conductor.abandon)
    except OperatorError:  # it could not begin
        trace.give_up()
        raise
    finally:
        watchers.close()
        executor.kill()
        executor.shutdown()
    outcome.end(conductor, signal_number, trace)
    return outcome


class _Watchers:
    """Everybody who looks on, and the results so far now and then."""

    def __init__(self, display: Display, exporter: PrometheusExporter | None) -> None:
        self.checkpoint: Callable[[], None] = lambda: None
        self._display = display
        self._exporter = exporter
        self._next = FIRST_CHECKPOINT_SECONDS
        self._written = True

    def note(self, text: str) -> None:
        """Something a person should read now."""
        with printing():
            self._display.note(text)

    def look(self, view: LiveView) -> None:
        """The run as it is now."""
        with printing():
            self._display.look(view)
        if self._exporter is not None:
            self._exporter.look(view)
        if view.elapsed >= self._next:
            self._next = view.elapsed + CHECKPOINT_SECONDS
            self._checkpoint()

    def close(self) -> None:
        """Give the terminal back."""
        with printing():
            self._display.close()

    def _checkpoint(self) -> None:
        try:
            self.checkpoint()
        except OperatorError as error:  # of the disk: the run that is measured goes on
            if self._written:
                self.note(f"Warning: {error}")
            self._written = False
        else:
            self._written = True
