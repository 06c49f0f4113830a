"""The work of ``lom-agent run``: the conductor in the reactor, the display beside it, and the results at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from agent.cli.apns import apns_plan
from agent.cli.default_scenario import scenario_of
from agent.cli.outcome import Outputs, RunResults
from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.signals import STANDARD_ERROR, STANDARD_OUTPUT, Stopping, printing
from agent.errors import OperatorError
from agent.load.conductor import Conductor
from agent.load.machine import cores, workers_of
from agent.load.run_state import RunState
from agent.measure.live import LiveView
from agent.measure.trace import TraceParts
from agent.net.transport.addresses import parse_address
from agent.processes import ProcessEach
from agent.report.terminal import Display, make_display
from agent.scenario.types import Scenario
from agent.service.prometheus import PrometheusExporter

FIRST_CHECKPOINT_SECONDS = 2.0
_WITH_RESUME = ("resume", "out", "junit", "trace", "prometheus", "quiet")
CHECKPOINT_SECONDS = 15.0  # between two writings of the results so far, in case the run is killed


def run_scenario(path: str | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Run the scenario at ``path``, or the default one; the exit status. ``given``: options of the command line.

    Raises OperatorError and UsageError.
    """
    with Stopping() as stopping:
        state = opened_state(path, options, given)
        plan = scenario_of(path, options, given) if state is None or not state.resumes else state.scenario
        outputs = Outputs.of(options)
        outputs.check()
        if state is not None and not state.resumes:
            state.begin(plan, workers_of(plan), time.time())
        console = Console()
        display = make_display(console, options["quiet"], time.monotonic)
        outcome = _run(plan, outputs, display, options, stopping, state)
        with printing():
            if state is not None and not state.finished:
                display.note(f"Go on with it: lom-agent run --resume {state.path}")
            outcome.tell(console)
    return outcome.exit_status


def opened_state(path: str | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> RunState | None:
    """The file of ``--state`` or ``--resume``; None without them. Raises OperatorError and UsageError."""
    if options["resume"] is None:
        return None if options["state"] is None else RunState(Path(options["state"]))
    others = [f"--{name.replace('_', '-')}" for name in given if name not in _WITH_RESUME]
    if path is not None or others:
        found = [*([] if path is None else [path]), *("--set" if each == "--overrides" else each for each in others)]
        text = f"--resume goes on with the scenario in its file, as it is: leave out {', '.join(found)}"
        raise click.UsageError(text)
    state = RunState(Path(options["resume"]))
    state.resume(time.time())
    return state


def _run(
    scenario: Scenario,
    outputs: Outputs,
    display: Display,
    options: Mapping[str, Any],
    stopping: Stopping,
    state: RunState | None,
) -> RunResults:
    workers = workers_of(scenario) if state is None else state.workers
    apns = apns_plan(scenario)
    trace = TraceParts(outputs.trace)
    reactor = the_reactor()
    prometheus = options["prometheus"]
    exporter = (
        None if prometheus is None else PrometheusExporter(reactor, *parse_address(prometheus, "--prometheus", 9464))
    )
    executor = ProcessEach()
    started = datetime.now(UTC) if state is None else datetime.fromtimestamp(state.started, UTC)
    outcome = RunResults(scenario, outputs, started)
    watchers = _Watchers(display, exporter, STANDARD_ERROR if options["quiet"] else STANDARD_OUTPUT)
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
        state=state,
    )
    stopping.last = executor.kill
    watchers.checkpoint = lambda: outcome.checkpoint(conductor)

    async def job() -> None:
        if exporter is not None:
            exporter.listen()
            watchers.note(f"Prometheus metrics: {exporter.url}")
        try:
            await conductor.run()
        finally:
            if exporter is not None:
                await exporter.close()

    def interrupt() -> None:
        conductor.interrupt()
        watchers.note("Stopping. Press Ctrl-C again to stop without waiting for the workers.")

    try:
        signal_number = run_until_done(reactor, job(), interrupt, stopping=stopping, abandon=conductor.abandon)
    except OperatorError:  # the run could not start
        trace.give_up()
        raise
    finally:
        watchers.close()
        executor.kill()
        executor.shutdown()
    outcome.end(conductor, signal_number, trace)
    return outcome


class _Watchers:
    """The display and the Prometheus exporter, and a checkpoint of the results from time to time."""

    def __init__(self, display: Display, exporter: PrometheusExporter | None, warnings_to: int) -> None:
        self.checkpoint: Callable[[], None] = lambda: None
        self._display = display
        self._warnings_to = warnings_to
        self._exporter = exporter
        self._next = FIRST_CHECKPOINT_SECONDS
        self._written = True

    def note(self, text: str) -> None:
        """Show a message."""
        with printing():
            self._display.note(text)

    def warn(self, text: str) -> None:
        """Show a warning."""
        with printing(self._warnings_to):
            self._display.warn(text)

    def look(self, view: LiveView) -> None:
        """Show the current state of the run; write a checkpoint where one is due."""
        with printing():
            self._display.look(view)
        if self._exporter is not None:
            self._exporter.look(view)
        if view.elapsed >= self._next:
            self._next = view.elapsed + CHECKPOINT_SECONDS
            self._checkpoint()

    def close(self) -> None:
        """Restore the terminal."""
        with printing():
            self._display.close()

    def _checkpoint(self) -> None:
        try:
            self.checkpoint()
        except OperatorError as error:  # such as a full disk: the run continues
            if self._written:
                self.warn(str(error))
            self._written = False
        else:
            self._written = True
