"""The work of ``lom-agent run``: the conductor in the reactor, the display beside it, and the results at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from agent.cli.apns.gateway import apns_plan
from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.results.outcome import Outputs, RunResults
from agent.cli.run.distributed import check_places, places_of, prepared_for
from agent.cli.run.replay import replayed
from agent.cli.scenarios.default import scenario_of
from agent.cli.signals import STANDARD_ERROR, STANDARD_OUTPUT, Stopping, printing
from agent.errors import OperatorError
from agent.load.conductor.conductor import Conductor
from agent.load.conductor.state import RunState
from agent.load.launch.launching import import_for_shards
from agent.load.machine.limits import cores, workers_of
from agent.measure.live import LiveView
from agent.measure.trace import TraceParts
from agent.net.transport.addresses import parse_address
from agent.processes import FORKS, ProcessEach
from agent.report.terminal import Display, make_display, visible
from agent.scenario.types import Scenario

if TYPE_CHECKING:
    from agent.cli.run.control import RunControl
    from agent.service.prometheus import PrometheusExporter

FIRST_CHECKPOINT_SECONDS = 2.0
_WITH_RESUME = ("resume", "out", "junit", "trace", "prometheus", "quiet")
CHECKPOINT_SECONDS = 15.0  # between two writings of the results so far, in case the run is killed


def run_scenario(path: str | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Run the scenario at ``path``, or the default one; the exit status. ``given``: options of the command line.

    Raises OperatorError and UsageError.
    """
    check_places(options)
    with Stopping() as stopping, ExitStack() as processes:
        state = None if options["resume"] is None else _resumed(path, options["resume"], given)
        outputs = Outputs.of(options)
        outputs.check()  # before all that can fail: no verdict of an earlier run is left, except of one that is resumed
        if state is None:
            plan = replayed(scenario_of(path, options, given), options["replay"])
            executor = processes.enter_context(_prepared(plan, options))  # before files are open
            state = _begun(plan, options)
        else:
            plan = state.scenario
            executor = processes.enter_context(ProcessEach())
        console = Console()
        display = make_display(console, options["quiet"], time.monotonic)
        outcome = _run(plan, outputs, display, options, stopping, state, executor)
        stopping.status = outcome.exit_status
        if state is not None and not state.finished:
            with printing(STANDARD_ERROR):  # also with --quiet
                click.echo(f"Go on with it: lom-agent run --resume {visible(str(state.path))}", err=True)
        with printing():
            outcome.tell(console)
    return outcome.exit_status


def _prepared(scenario: Scenario, options: Mapping[str, Any]) -> ProcessEach:
    """The processes of the workers that are to start on this machine. Raises OperatorError."""
    workers = prepared_for(scenario, options)
    if workers and FORKS:
        import_for_shards(scenario)
    return ProcessEach(workers)


def _resumed(path: str | None, file: str, given: Mapping[str, Any]) -> RunState:
    """The file of ``--resume``. Raises OperatorError and UsageError."""
    others = [f"--{name.replace('_', '-')}" for name in given if name not in _WITH_RESUME]
    if path is not None or others:
        found = [*([] if path is None else [path]), *("--set" if each == "--overrides" else each for each in others)]
        text = f"--resume goes on with the scenario in its file, as it is: leave out {', '.join(found)}"
        raise click.UsageError(text)
    state = RunState(Path(file))
    state.resume(time.time())
    return state


def _begun(scenario: Scenario, options: Mapping[str, Any]) -> RunState | None:
    """The file of ``--state``, with a new run; None without it. Raises OperatorError."""
    if options["state"] is None:
        return None
    found = [f"--{name}" for name in ("control", "replay") if options[name] is not None]
    found += ["[[change]]"] * bool(scenario.changes and not found)
    if found:
        raise OperatorError(
            "Expected a run that nothing changes for --state, because a resumed run would not know of it; found "
            f"{' and '.join(found)}. Leave out one or the other."
        )
    state = RunState(Path(options["state"]))
    state.begin(scenario, workers_of(scenario), time.time())
    return state


def _run(
    scenario: Scenario,
    outputs: Outputs,
    display: Display,
    options: Mapping[str, Any],
    stopping: Stopping,
    state: RunState | None,
    executor: ProcessEach,
) -> RunResults:
    apns = apns_plan(scenario)
    trace = TraceParts(outputs.trace)
    reactor = the_reactor()
    exporter = _exporter(reactor, options["prometheus"])
    places = places_of(reactor, scenario, options, executor, None if state is None else state.workers)
    started = datetime.now(UTC) if state is None else datetime.fromtimestamp(state.started, UTC)
    outcome = RunResults(scenario, outputs, started)
    watchers = _Watchers(display, exporter, STANDARD_ERROR if options["quiet"] else STANDARD_OUTPUT)
    conductor = Conductor(
        reactor,
        scenario,
        places.launcher,
        places.workers,
        watchers,
        listen=places.listen,
        lab=places.lab,
        apns=apns,
        trace=None if outputs.trace is None else trace.path_of,
        cores=cores(),
        controlled=options["control"] is not None or options["replay"] is not None,
        state=state,
    )
    control = _control(reactor, conductor, options)
    stopping.last = executor.kill
    watchers.checkpoint = lambda: outcome.checkpoint(conductor)

    async def job() -> None:
        if exporter is not None:
            exporter.listen()
            watchers.note(f"Prometheus metrics: {exporter.url}")
        if control is not None:
            watchers.note(control.open())
        try:
            await conductor.run()
        finally:
            if control is not None:
                await control.close()
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


def _exporter(reactor: Any, address: str | None) -> PrometheusExporter | None:
    """The metrics of the run; None where they are not asked for. Raises OperatorError."""
    if address is None:
        return None
    from agent.service.prometheus import PrometheusExporter  # only where there is one: a fast start

    return PrometheusExporter(reactor, *parse_address(address, "--prometheus", 9464))


def _control(reactor: Any, conductor: Conductor, options: Mapping[str, Any]) -> RunControl | None:
    """The control API of the run; None where it is not asked for. Raises OperatorError and UsageError."""
    if options["control"] is None:
        for name in ("token_file", "ready_file"):
            if options[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} goes with --control")
        return None
    if options["quiet"] and options["ready_file"] is None:
        raise click.UsageError("--control with --quiet needs --ready-file, since the address is not printed")
    from agent.cli.run.control import RunControl  # only where there is one: a fast start

    return RunControl(reactor, conductor, options)


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
