"""``lom-agent run``: a scenario against a server, from its TOML file or from the options alone."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from agent.cli.scenarios.options import (
    CONTROL,
    ENROLLMENT,
    FLEET,
    LOM,
    MACHINES,
    PUSH,
    RESULTS,
    SCENARIO,
    GroupedCommand,
    grouped_option,
    scenario_options,
)
from agent.cli.signals import importing
from agent.unix import check_unix


def _no_gateway_rule(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        from agent.scenario.checks.complaints import GATEWAY_RULES

        raise click.UsageError(f"--apns-rule is not an option any more, --rule is; {GATEWAY_RULES}")


@click.command(cls=GroupedCommand)
@click.argument("scenario", required=False, type=click.Path(dir_okay=False), metavar="[SCENARIO.toml]")
@grouped_option(
    SCENARIO,
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the scenario, such as load.rate=50 or phase.enroll.rate=20; docs/scenario.md has all keys. "
    "Repeatable.",
)
@grouped_option(
    SCENARIO,
    "--rule",
    "rules",
    multiple=True,
    metavar="KEYS",
    help="Add a fault rule: the keys of a [[rule]] table on one line of TOML, such as "
    """'on = "push", do = "lose", share = 0.1'; docs/faults.md. Repeatable.""",
)
@scenario_options(SCENARIO)
@grouped_option(
    SCENARIO,
    "--state",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the run in this file, and in files beside it, so that --resume goes on with it after a signal, "
    "kill -9 or a power failure.",
)
@grouped_option(
    SCENARIO,
    "--resume",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Go on with the run of this state file, with the scenario in it.",
)
@scenario_options(FLEET)
@scenario_options(ENROLLMENT)
@grouped_option(
    ENROLLMENT,
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Start R enrollments per second, however fast the server answers.",
)
@grouped_option(
    ENROLLMENT,
    "--stay",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --enroll: keep the Macs running this long, for pushes (--apns) or to poll for commands.",
)
@grouped_option(
    ENROLLMENT,
    "--poll",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --stay: how often each Mac opens a session by itself.  [default: 60 without --apns, never with it]",
)
@scenario_options(LOM)
@grouped_option(
    LOM,
    "--power",
    multiple=True,
    metavar="CASE=CHOICE",
    help="What a LOM request does in a case that Apple does not document, such as power_on_while_on=refuse; "
    "docs/scenario.md, [fleet.power], has all cases. Repeatable.",
)
@scenario_options(PUSH)
@click.option("--apns-rule", multiple=True, hidden=True, expose_value=False, callback=_no_gateway_rule)
@grouped_option(
    RESULTS,
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write results.json and report.html into this folder.",
)
@grouped_option(
    RESULTS,
    "--junit",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the limits as JUnit test cases.",
)
@grouped_option(
    RESULTS,
    "--trace",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write one JSON line per operation.",
)
@grouped_option(
    RESULTS, "--prometheus", metavar="ADDRESS:PORT", help="Serve Prometheus metrics at http://ADDRESS:PORT/metrics."
)
@grouped_option(
    CONTROL,
    "--control",
    metavar="ADDRESS:PORT",
    help="Serve an HTTP API at this address that pauses and resumes the run, changes rates and stops it; port 0: a "
    "free port; docs/run-api.md.",
)
@grouped_option(
    CONTROL,
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Read the token of --control from this file; if it does not exist, write a new token to it.",
)
@grouped_option(
    CONTROL,
    "--ready-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the address and the token of --control to this JSON file when the API listens; remove it at the end.",
)
@grouped_option(
    CONTROL,
    "--replay",
    type=click.Path(),
    metavar="DIR_OR_FILE",
    help="Repeat the pauses and changed rates of an earlier run, recorded in its results, at the same times.",
)
@grouped_option(
    MACHINES,
    "--listen",
    metavar="ADDRESS:PORT",
    help='Run the workers on other machines: they join the run at this address, each started there with "lom-agent '
    'worker". --workers says how many; docs/distributed.md.',
)
@grouped_option(
    MACHINES,
    "--join-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the address, the CA and the join secret for these workers to this file; remove it at the end.  "
    "[default: join.json]",
)
@grouped_option(
    MACHINES,
    "--join-timeout",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="How long to wait until all of them have joined.  [default: 30]",
)
@grouped_option(
    MACHINES,
    "--executor",
    metavar="dask=SCHEDULER",
    help="Start the workers on this Dask cluster, such as dask=tls://scheduler:8786; needs lom-agent[dask].",
)
@grouped_option(
    MACHINES,
    "--lab-listen",
    metavar="ADDRESS:PORT",
    help="The address of the embedded lab.  [default: loopback; with --listen or --executor the same address]",
)
@grouped_option(
    MACHINES,
    "--advertise",
    metavar="NAME",
    help="The name or address by which other machines reach this one; it is in the certificates.  [default: the "
    "address of --listen]",
)
@scenario_options(MACHINES)
@grouped_option(
    RESULTS,
    "--quiet",
    is_flag=True,
    help="Print no progress: only warnings, on standard error, and the summary at the end.",
)
@click.pass_context
def run(context: click.Context, /, scenario: str | None, **options: Any) -> None:
    """Run a fleet of Macs against an MDM server.

    With SCENARIO.toml, run the phases of that file; "lom-agent scenario new" writes one. Without it, start the embedded
    MDM server (the lab) on loopback: the Macs enroll, are set up for LOM and are reset through their LOM Controllers.
    With --enroll, the Macs enroll in your server and poll it for commands. Every message goes through a TLS socket.

    The run fails (exit status 1) if a limit of the scenario fails, if an operation without a limit on its errors
    fails, or if the run does not complete.

    Workers may run on other machines (--listen, --executor): docs/distributed.md.

    A run with --state that did not complete goes on with --resume FILE; docs/state.md says what is kept.
    """
    check_unix()
    with importing():
        from agent.cli.run.running import run_scenario
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    sys.exit(run_scenario(scenario, options, given))
