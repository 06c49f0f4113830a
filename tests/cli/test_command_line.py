"""The list of commands and the options made from scenario keys."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command import SECONDS

import agent
from agent.cli.commands import COMMANDS, cli
from agent.cli.run.command import run
from agent.cli.scenarios.options import GROUPS, KeyOption, overrides
from agent.cli.signals import importing
from agent.scenario.reading import scenario_from
from agent.scenario.types import Scenario

HEAVY = {"twisted", "cryptography", "OpenSSL", "rich", "jinja2", "multiprocessing", "klein", "httpx"}
OPTIONS = [option for options in GROUPS.values() for option in options]
# A value for each option that is not its key's default; those that the checks of a scenario require go with it.
VALUES: dict[str, object] = {
    "--workers": 3, "--devices": 7, "--segment-size": 3, "--seed": "other", "--os": "26.4", "--model": "Mac16,9",
    "--boot": "constant:2",
    "--shutdown": "constant:2", "--not-now": 0.25, "--not-now-for": 2.0, "--not-now-retry": 2.0,
    "--enroll": "https://mdm.example/", "--identity": "scep", "--keys": "pool:2", "--ca": ("ca.pem",),
    "--insecure": True, "--enroll-retries": 2, "--per-user-connections": "optional", "--lom-network": "memory",
    "--lom-dial": "in-order", "--on-loss": "abort", "--http": "1.1",
    "--apns": "127.0.0.1:2197", "--apns-tls": "apns", "--apns-cert": "apns.pem", "--apns-key": "apns.key",
    "--apns-provider-ca": ("ca.pem",),
    "--apns-strict": True, "--apns-delay": "constant:2", "--apns-power-saving": 2.0,
}  # fmt: skip
NEEDS = {
    "--keys": {"identity": "scep"},
    "--apns-cert": {"apns_key": "apns.key"},
    "--apns-key": {"apns_cert": "apns.pem"},
    **{name: {"enroll": "https://mdm.example/"} for name in ("--enroll", "--ca", "--insecure")},
}


HELP = [["--help"], ["--version"], ["run", "--help"], ["scenario", "doc"]]
# For each line of arguments a child of a process that has what every command imports: its packages when it ends.
PROGRAM = """
import json, os, sys
import agent.cli.commands
from agent.cli import main

def ended(arguments):
    sys.argv = ["lom-agent", *arguments]
    told = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        main()
    except SystemExit as end:
        packages = sorted({name.partition(".")[0] for name in sys.modules})
        os.write(told, (json.dumps([arguments, end.code, packages]) + chr(10)).encode())

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            ended(json.loads(line))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def packages() -> dict[tuple[str, ...], set[str]]:
    """The top-level packages that a process has imported when a command ends, by its arguments."""
    asked = [*HELP, *([name, "--help"] for name in COMMANDS)]
    lines = "\n".join(map(json.dumps, asked)).encode()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=lines, capture_output=True, check=True, timeout=SECONDS
    )
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(arguments, code) for arguments, code, _ in ended] == [(each, 0) for each in asked], done.stderr
    return {tuple(arguments): set(loaded) for arguments, _, loaded in ended}


@pytest.mark.parametrize("arguments", HELP)
def test_help_imports_no_heavy_module(packages: dict[tuple[str, ...], set[str]], arguments: list[str]) -> None:
    loaded = packages[tuple(arguments)]
    assert {"agent", "click"} <= loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_imports_no_heavy_module(packages: dict[tuple[str, ...], set[str]], name: str) -> None:
    assert not packages[name, "--help"] & HEAVY


# The module of each role of a process, and what it must not import at its start. Those of a group are imported one
# after the other in one process, so each has the modules of those before it.
OWN_PROCESSES = {
    "agent.client": {"httpx", "twisted", "cryptography", "pytest", "click"},
    "agent.net.mac.fleet.key_process": {"twisted", "asn1crypto", "agent.device"},
    "agent.cli.serve.serving": {
        "asn1crypto", "httpx", "jinja2", "klein", "prometheus_client", "concurrent.futures.process", "rich",
        "agent.lab", "agent.net.apns.gateway", "agent.net.mac.enrollment.scep", "agent.report", "agent.scenario",
        "agent.service.embedded", "agent.service.api.openapi", "agent.service.workers", "agent.load.shard",
    },
    "agent.cli.lab.running": {"asn1crypto", "klein", "rich", "agent.report", "agent.load.shard", "agent.scenario"},
    "agent.cli.conform.conforming": {"jinja2", "klein", "rich", "agent.load.shard", "agent.report"},
}  # fmt: skip
PROCESSES_OF_A_RUN = {
    "agent.load.shard.running": {
        "click", "rich", "h2", "asn1crypto", "klein", "prometheus_client", "concurrent.futures.process",
        "agent.cli", "agent.lab", "agent.load.conductor", "agent.net.mac.enrollment.scep", "agent.report",
        "agent.scenario.reading", "agent.service",
    },
    "agent.service.workers.worker": {"click", "rich", "h2", "agent.cli", "agent.lab", "agent.service.embedded"},
    "agent.cli.worker.working": {"rich", "h2", "asn1crypto", "tomllib", "agent.lab", "agent.load.conductor"},
    "agent.cli.run.running": {
        "asn1crypto", "jinja2", "klein", "prometheus_client", "concurrent.futures.process", "agent.cli.run.control",
        "agent.conform", "agent.load.launch.dask",
    },
}  # fmt: skip
ONE_AFTER_THE_OTHER = """
import sys
for role in sys.argv[1:]:
    __import__(role)
    print(role, *sys.modules)
"""


@pytest.mark.parametrize("roles", [OWN_PROCESSES, PROCESSES_OF_A_RUN])
def test_each_role_of_a_process_imports_the_rest_when_it_is_used(roles: dict[str, set[str]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, *roles], capture_output=True, check=True, timeout=SECONDS
    )
    loaded = {role: set(modules) for role, *modules in map(str.split, done.stdout.decode().splitlines())}
    assert list(loaded) == list(roles)
    assert {role: loaded[role] & forbidden for role, forbidden in roles.items() if loaded[role] & forbidden} == {}


# A struct cannot leave a field out of its text or its comparison, have an exception or a class of another kind as its
# base, or hold a function as a default.
DATACLASSES = {
    "APNsPlan", "Choice", "Evidence", "LabConfig", "Mac", "MicroMDMConfig", "NanoMDMConfig", "Payload", "Ramp",
    "RequestFailed", "RequestTemplate", "ServiceSettings", "Steps", "Trust",
}  # fmt: skip


def test_plain_data_are_structs_whose_classes_are_made_fast() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(Path(agent.__file__).parent.rglob("*.py")))
    found = set(re.findall(r"^ *@dataclass\b[^\n]*\n *class (\w+)", text, re.MULTILINE))
    assert found == DATACLASSES, "make it a msgspec.Struct: a dataclass costs every start of a process a millisecond"


def test_no_garbage_is_collected_during_imports() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("name", COMMANDS)
def test_command_list_has_each_commands_own_summary(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name].help


def test_unknown_command_is_refused() -> None:
    assert cli.get_command(click.Context(cli), "nonsense") is None


def test_help_lists_every_command_and_every_option_of_run_once() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert all(f"\n  {name} " in text for name in COMMANDS)
    text = CliRunner().invoke(run, ["--help"]).output
    shown = [each for each in run.params if not (isinstance(each, click.Option) and each.hidden)]
    names = [option for parameter in shown for option in parameter.opts if option.startswith("--")]
    assert [text.count(f"\n  {name} ") for name in names] == [1] * len(names)
    for group in (*GROUPS, "Results"):
        assert f"\n{group}:\n" in text


def test_test_table_covers_every_run_option() -> None:
    assert {option.name for option in OPTIONS} == VALUES.keys()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_run_option_sets_its_scenario_key_with_the_same_bounds(option: KeyOption) -> None:
    def key_of(scenario: Scenario) -> object:
        table, name = option.key.split(".")
        return getattr(getattr(scenario, table), name)

    value = VALUES[option.name]
    given = {**NEEDS.get(option.name, {}), option.parameter: value}
    server = {"server": {"adapter": "none"}} if "enroll" in given else {}
    document = {**server, "phase": [{"kind": "enroll"}]}
    (parameter,) = [each for each in run.params if each.name == option.parameter]
    typed = (value if isinstance(value, tuple) else (value,)) if value is not True else ()
    words = [word for each in typed for word in (option.name, str(each))] or [option.name]
    context = run.make_context("run", words)
    assert context.params[option.parameter] == value
    assert parameter.help  # type: ignore[attr-defined]
    assert key_of(scenario_from(document, list(overrides(given)))) == value


def test_default_in_help_is_the_scenario_keys_default() -> None:
    context = run.make_context("run", [])
    defaults = scenario_from(tomllib.loads('[[phase]]\nkind = "enroll"'))
    for option in OPTIONS:
        table, name = option.key.split(".")
        expected = getattr(getattr(defaults, table), name)
        if table != "push":  # where the embedded lab fills in the gateway
            assert context.params[option.parameter] == expected, option.name
