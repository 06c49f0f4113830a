"""Carries out ``lom-agent conform``: the probes in the reactor, the verdicts, and the files at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.cli.results.outputs import check_different, check_file
from agent.cli.scenarios.options import overrides
from agent.cli.signals import STANDARD_ERROR, Stopping, printing
from agent.conform.requirements import requirements, selected
from agent.conform.trace.records import Header, ServerFacts, Trace, read_trace, write_trace
from agent.conform.verdicts.capabilities import read_capabilities
from agent.conform.verdicts.document import Report, report_of
from agent.conform.verdicts.judge import day_of, judge
from agent.conform.verdicts.requirement import Requirement
from agent.conform.verdicts.waivers import read_waivers, waivers_text
from agent.errors import OperatorError
from agent.files import write_file

USAGE_STATUS = 2
UNREACHABLE_STATUS = 3
_FILES = ("trace", "json_file", "junit", "html", "markdown")  # the options that name a file to write
_WAIVER_DAYS = 90  # ours: how long a waiver of --write-waivers holds
_MANUAL_PATIENCE = 600.0  # seconds; ours


def run_conform(options: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Carry the command out; the exit status. ``given``: options of the command line. Raises OperatorError."""
    chosen = selected(options["profile"], options["only"])
    if options["listing"]:
        _list(chosen)
        return 0
    _check_files(options)
    known = requirements()
    capabilities: Mapping[str, bool] = {}
    if options["capabilities"] is not None:
        capabilities = read_capabilities(options["capabilities"], [each.needs for each in known if each.needs])
    waivers = () if options["waivers"] is None else read_waivers(options["waivers"], [each.id for each in known])
    if options["from_trace"] is not None:
        trace = read_trace(Path(options["from_trace"]))
        if options["software"]:
            server = msgspec.structs.replace(trace.header.server, software=options["software"])
            trace.header = msgspec.structs.replace(trace.header, server=server)
        if {"profile", "only"} & set(given):
            selection = {"profile": options["profile"], "only": tuple(options["only"])}
            trace.header = msgspec.structs.replace(trace.header, **selection)
        else:
            chosen = selected(trace.header.profile, trace.header.only)
    else:
        from agent.conform.stage.errors import Unreachable  # the reactor is not needed to judge a trace

        try:
            trace = _tested(chosen, options, given)
        except Unreachable as error:
            click.echo(f"lom-agent: {error}", err=True)
            return UNREACHABLE_STATUS
    report = report_of(trace, judge(trace, chosen, capabilities, waivers))
    errors = _write(report, trace, options)
    with printing():
        if options["from_trace"] is not None and any(waiver.until is not None for waiver in waivers):
            click.echo(f"The waivers are those in force on {day_of(trace)}, the day of the trace (UTC).", err=True)
        _print(report, options)
    with printing(STANDARD_ERROR):
        for each in errors:
            click.echo(f"lom-agent: {each}", err=True)
    return USAGE_STATUS if errors and report.exit_status in (0, 4) else report.exit_status


def _check_files(options: Mapping[str, Any]) -> None:
    """Check before the run that each file can be written, and is a file of its own. Raises OperatorError."""
    files = [(f"--{name}", options[name]) for name in _FILES]
    files = [(name.removesuffix("_file"), path) for name, path in files if path is not None]
    inputs = [(f"--{name}", options[name]) for name in ("capabilities", "waivers", "from_trace")]
    check_different([*((name.replace("_", "-"), path) for name, path in inputs if path is not None), *files])
    for _name, path in files:
        check_file(path)


def _list(chosen: tuple[Requirement, ...]) -> None:
    for each in chosen:
        click.echo(f"{each.id}  {each.level.value:6}  {','.join(each.profiles):16}  {each.says}")


def _tested(chosen: tuple[Requirement, ...], options: Mapping[str, Any], given: Mapping[str, Any]) -> Trace:
    """The trace of a run, and the signal that stopped it. Raises OperatorError and Unreachable."""
    from agent.cli.apns.gateway import apns_plan
    from agent.cli.reactor import run_until_done, the_reactor
    from agent.conform.probes import Probe, needed_by
    from agent.conform.stage.manual import ManualServer
    from agent.conform.stage.run import Run
    from agent.conform.stage.stage import PATIENCE_SECONDS, Stage
    from agent.conform.stage.target import target_of
    from agent.conform.trace.recorder import Recorder
    from agent.scenario.reading import scenario_from

    adapter = options["adapter"] or ("lab" if options["enroll"] is None else "none")
    manual = adapter == "manual"
    document: dict[str, Any] = {
        "name": "lom-agent conform",
        "server": {"adapter": "none" if manual else adapter},
        "phase": [{"kind": "enroll"}],
    }
    scenario = scenario_from(document, [*overrides(given), *options["overrides"]], where="the options")
    reactor = the_reactor()
    say = _sayer(quiet=options["quiet"] and not manual)
    with Stopping() as stopping:
        target = target_of(reactor, scenario)
        if manual:
            target.adapter, target.server = "manual", ManualServer(reactor, say)
        seed, os = scenario.fleet.seed, scenario.fleet.population.os
        header = Header(
            started=time.time(),
            seed=seed,
            profile=options["profile"],
            only=tuple(options["only"]),
            os=os,
            server=ServerFacts(target.adapter, target.url, options["software"] or ""),
        )
        recorder = Recorder(header)
        stage = Stage(
            reactor,
            target,
            recorder,
            seed=seed,
            os=os,
            patience=options["patience"] or (_MANUAL_PATIENCE if manual else PATIENCE_SECONDS),
            apns=apns_plan(scenario) if scenario.push.enabled and target.lab is None else None,
            on_warning=lambda text: click.echo(f"Warning: {text}", err=True),
        )

        def progress(number: int, count: int, probe: Probe) -> None:
            say(f"{number}/{count} {probe.name}: {probe.does}")

        run = Run(reactor, stage, needed_by(chosen), progress)

        async def job() -> None:
            try:
                stage.open()
                await stage.reach()
                await run.play()
            finally:
                await stage.close()

        number = run_until_done(reactor, job(), run.stop, stopping=stopping)
    recorder.trace.signal = number or 0
    return recorder.trace


def _sayer(*, quiet: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    return say


def _write(report: Report, trace: Trace, options: Mapping[str, Any]) -> list[OperatorError]:
    """Write the files that are asked for; the errors of those that cannot be written."""
    errors: list[OperatorError] = []
    for name in _FILES:
        if options[name] is not None:
            try:
                path = Path(options[name])
                if name == "trace":
                    write_trace(path, trace)
                else:
                    write_file(path, _octets(name, report))
            except OperatorError as error:
                errors.append(error)
    return errors


def _octets(name: str, report: Report) -> bytes:
    """What the file of this option contains. Only what it needs is imported."""
    match name:
        case "junit":
            from agent.conform.output.junit import junit

            return junit(report)
        case "html":
            from agent.conform.output.html import html

            return html(report).encode()
        case "markdown":
            from agent.conform.output.markdown import markdown

            return markdown(report).encode()
    return report.as_json()


def _print(report: Report, options: Mapping[str, Any]) -> None:
    from agent.conform.output.terminal import lines

    to_waivers = options["write_waivers"]
    for line in lines(report, every=options["verbose"]):
        click.echo(line, err=to_waivers)
    if to_waivers:
        failures = [(each.id, f"expected {each.expected}, seen {each.seen}") for each in report.failures()]
        click.echo(waivers_text(failures, date.today() + timedelta(days=_WAIVER_DAYS)), nl=False)
