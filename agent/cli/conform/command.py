"""``lom-agent conform``: whether a server does what Apple's documents require; its options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from agent.cli.scenarios.options import (
    ENROLLMENT,
    FLEET,
    RESULTS,
    GroupedCommand,
    grouped_option,
    scenario_option,
)
from agent.cli.signals import importing
from agent.unix import check_unix

_WHAT = "Requirements"
_SERVER = ENROLLMENT
_FILE = click.Path(dir_okay=False)
# The options that go with --from-trace: what is judged, and what is written. The others are those of a run.
_WITH_TRACE = (
    *("from_trace", "profile", "only", "listing", "capabilities", "waivers", "write_waivers", "software"),
    *("trace", "json_file", "junit", "html", "markdown", "verbose", "quiet"),
)


@click.command(cls=GroupedCommand)
@grouped_option(
    _WHAT,
    "--profile",
    type=click.Choice(["lom", "mdm", "macos27", "all"]),
    default="lom",
    show_default=True,
    help="Which requirements to check: those of lights-out management and the sessions it needs, of MDM, of macOS 27, "
    "or all.",
)
@grouped_option(
    _WHAT,
    "--only",
    multiple=True,
    metavar="ID",
    help="Only this requirement, such as LOM-DEVICE-03, or this area, such as LOM-DEVICE, in any profile. Repeatable.",
)
@grouped_option(_WHAT, "--list", "listing", is_flag=True, help="Print the requirements, and test nothing.")
@grouped_option(
    _WHAT,
    "--capabilities",
    type=_FILE,
    metavar="FILE",
    help="A TOML file of capabilities that the server does not have, such as ddm = false under [capabilities]. "
    "Requirements that need one are not applicable.",
)
@grouped_option(
    _WHAT,
    "--waivers",
    type=_FILE,
    metavar="FILE",
    help="A TOML file of expected failures. If one of them does not happen, the exit status is 4.",
)
@grouped_option(
    _WHAT,
    "--write-waivers",
    is_flag=True,
    help="Print waivers for the failures of this run, to be used with --waivers; the report goes to standard error.",
)
@grouped_option(
    _SERVER,
    "--server",
    "adapter",
    type=click.Choice(["lab", "nanomdm", "micromdm", "webhook", "manual", "none"]),
    help="How commands are queued in the server. manual: you queue them in its console when asked. none: requirements "
    "that need a command are not tested.  [default: lab; with --enroll: none]",
)
@grouped_option(
    _SERVER,
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the server's API, such as server.nanomdm.url=https://mdm.example; docs/scenario.md, [server], "
    "has all keys. Repeatable.",
)
@scenario_option("--enroll")
@scenario_option("--identity")
@scenario_option("--ca")
@scenario_option("--insecure")
@scenario_option("--apns")
@scenario_option("--apns-tls")
@scenario_option("--apns-cert")
@scenario_option("--apns-key")
@scenario_option("--apns-provider-ca")
@scenario_option("--seed")
@scenario_option("--os")
@grouped_option(
    FLEET,
    "--patience",
    type=click.FloatRange(min=0.1, max=3600),
    metavar="SECONDS",
    help="How long to wait for each expected action of the server.  [default: 10; manual: 600]",
)
@grouped_option(
    _SERVER,
    "--software",
    metavar="TEXT",
    help="The server's software and version, for the report.  [default: the Server header of its responses]",
)
@grouped_option(
    RESULTS,
    "--from-trace",
    type=_FILE,
    metavar="FILE",
    help="Judge this trace again instead of testing a server.",
)
@grouped_option(
    RESULTS, "--trace", type=_FILE, metavar="FILE", help="Write the messages, without secrets, for --from-trace."
)
@grouped_option(RESULTS, "--json", "json_file", type=_FILE, metavar="FILE", help="Write the report as JSON.")
@grouped_option(RESULTS, "--junit", type=_FILE, metavar="FILE", help="Write each requirement as a JUnit test.")
@grouped_option(RESULTS, "--html", type=_FILE, metavar="FILE", help="Write the report as one HTML file.")
@grouped_option(RESULTS, "--markdown", type=_FILE, metavar="FILE", help="Write a summary for the page of a CI job.")
@grouped_option(RESULTS, "--verbose", is_flag=True, help="Print the requirements that passed, too.")
@grouped_option(RESULTS, "--quiet", is_flag=True, help="Print no progress.")
@click.pass_context
def conform(context: click.Context, /, **options: Any) -> None:
    """Check an MDM server against the requirements of Apple's documents.

    Simulated Macs enroll in the server and bring about the situation of each requirement; commands are queued through
    the server's API. Each requirement gets a verdict: pass, fail (a must), warn (a should or may), not applicable (by
    the capabilities file), or not tested, with the reason. Without --enroll the embedded lab is checked:

    \b
        lom-agent conform
        lom-agent conform --list --profile all
        lom-agent conform --enroll https://mdm.example/enroll --server nanomdm --apns 127.0.0.2:443 --apns-tls apns \\
            --set server.nanomdm.url=http://127.0.0.1:9000 --set server.nanomdm.api_key_env=NANOMDM_API_KEY

    docs/conformance.md lists every requirement.

    Exit status: 0 no must failed; 1 a must failed; 2 wrong usage or input, a file could not be written, or no
    requirement was judged; 3 no must failed, but the server could not be reached, no Mac could enroll, or the server
    stopped answering; 4 no must failed without a waiver, but a requirement with a waiver failed or passed; 130 stopped
    by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, with the verdicts so far; 130 also of a trace that was cut off.
    """
    with importing():
        from agent.cli.conform.conforming import run_conform

    from click.core import ParameterSource

    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if options["from_trace"] is not None:
        _check_goes_with_trace(context, given)
    elif not options["listing"]:
        check_unix()
    sys.exit(run_conform(options, given))


def _check_goes_with_trace(context: click.Context, given: Mapping[str, Any]) -> None:
    """Check that the options given are of use where a trace is judged. Raises UsageError."""
    others = [each.opts[0] for each in context.command.params if each.name in given and each.name not in _WITH_TRACE]
    if others:
        raise click.UsageError(
            f"Expected --from-trace without options of a run, found {', '.join(others)}. Leave them out: the trace "
            "says what was tested, and how."
        )
