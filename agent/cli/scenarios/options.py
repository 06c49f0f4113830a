"""The options that set a key of the scenario, made from the key: type, bounds, default and help text.

``GROUPS`` says which option sets which key, and under which heading ``lom-agent run --help`` lists it. A command takes
single ones with ``scenario_option``. Also the command class that lists options by group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import click
from msgspec import inspect

from agent.scenario.keys import Key, bare, keys_of
from agent.scenario.types import Scenario

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SCENARIO = "Scenario"
FLEET = "Fleet"
ENROLLMENT = "Server and enrollment"
LOM = "LOM"
PUSH = "Push (APNs gateway)"
RESULTS = "Results"
CONTROL = "Control of the run"
MACHINES = "Workers on other machines"

_CODE = re.compile(r"`([^`]*)`")  # of Markdown


class KeyOption(NamedTuple):
    """An option and the key that it sets, by its dotted path; ``metavar`` unless the type says it."""

    name: str
    key: str
    metavar: str | None = None

    @property
    def parameter(self) -> str:
        """What click calls it."""
        return self.name.removeprefix("--").replace("-", "_")


GROUPS: Mapping[str, tuple[KeyOption, ...]] = {
    SCENARIO: (KeyOption("--workers", "load.workers", "N"),),
    FLEET: (
        KeyOption("--devices", "fleet.devices", "N"),
        KeyOption("--segment-size", "fleet.segment_size", "N"),
        KeyOption("--seed", "fleet.seed", "TEXT"),
        KeyOption("--os", "fleet.os", "VERSION"),
        KeyOption("--model", "fleet.model", "IDENTIFIER"),
        KeyOption("--boot", "fleet.boot", "DURATION"),
        KeyOption("--shutdown", "fleet.shutdown", "DURATION"),
        KeyOption("--not-now", "fleet.not_now", "P"),
        KeyOption("--not-now-for", "fleet.not_now_for", "SECONDS"),
        KeyOption("--not-now-retry", "fleet.not_now_retry", "SECONDS"),
    ),
    ENROLLMENT: (
        KeyOption("--enroll", "server.enroll", "FILE_OR_URL"),
        KeyOption("--identity", "server.identity"),
        KeyOption("--keys", "server.keys", "unique|pool:N"),
        KeyOption("--ca", "server.ca", "FILE"),
        KeyOption("--insecure", "server.insecure"),
        KeyOption("--http", "server.http"),
        KeyOption("--enroll-retries", "server.retries", "N"),
        KeyOption("--per-user-connections", "fleet.per_user_connections"),
    ),
    LOM: (
        KeyOption("--lom-network", "lom.network", "loopback|memory|interface:NAME[,NAME…][:PORT]"),
        KeyOption("--lom-dial", "lom.dial"),
    ),
    MACHINES: (KeyOption("--on-loss", "load.on_loss"),),
    PUSH: (
        KeyOption("--apns", "push.listen", "ADDRESS:PORT"),
        KeyOption("--apns-tls", "push.tls", "DIR"),
        KeyOption("--apns-cert", "push.cert", "FILE"),
        KeyOption("--apns-key", "push.key", "FILE"),
        KeyOption("--apns-provider-ca", "push.provider_ca", "FILE"),
        KeyOption("--apns-strict", "push.strict"),
        KeyOption("--apns-delay", "push.delay", "DURATION"),
        KeyOption("--apns-power-saving", "push.power_saving", "SECONDS"),
    ),
}
_KEY_OPTIONS = {option.name: (group, option) for group, options in GROUPS.items() for option in options}
_NAME_OF_KEY = {option.key: name for name, (_, option) in _KEY_OPTIONS.items()}


class GroupedOption(click.Option):
    """An option that its command's help lists under a heading."""

    def __init__(self, *arguments: Any, group: str, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help lists its options by group, in the order of their first options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group; options without one come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for option in sorted(options, key=lambda option: not isinstance(option, GroupedOption)):
            record = option.get_help_record(ctx)
            if record is not None:
                group = option.group if isinstance(option, GroupedOption) else "Other options"
                sections.setdefault(group, []).append(record)
        for group, records in sections.items():
            with formatter.section(group):
                formatter.write_dl(records)


def grouped_option(group: str, *arguments: Any, **keywords: Any) -> Callable[[CommandT], CommandT]:
    """``click.option`` with a heading."""
    return click.option(*arguments, cls=GroupedOption, group=group, **keywords)


def scenario_option(name: str) -> Callable[[CommandT], CommandT]:
    """The option ``name`` of ``GROUPS``, as a decorator."""
    group, option = _KEY_OPTIONS[name]
    return grouped_option(group, name, **_keywords(option))


def scenario_options(group: str) -> Callable[[CommandT], CommandT]:
    """Every option of a group, as one decorator."""

    def decorate(command: CommandT) -> CommandT:
        for option in reversed(GROUPS[group]):
            command = scenario_option(option.name)(command)
        return command

    return decorate


def overrides(given: Mapping[str, Any]) -> Iterator[str]:
    """The options that were given, by click's names, as overrides of the scenario's keys."""
    for _, option in _KEY_OPTIONS.values():
        if option.parameter in given:
            yield f"{option.key}={toml_value(given[option.parameter])}"


def toml_value(value: object) -> str:
    """The value of an option as TOML; strings, numbers, booleans and arrays of strings are the same in JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _keywords(option: KeyOption) -> dict[str, Any]:
    key = _key_at(option.key)
    takes = bare(key.takes)
    text = _help(key.description, option.key.partition(".")[0])
    if isinstance(takes, inspect.BoolType):
        return {"is_flag": True, "help": text}
    several, default = isinstance(takes, inspect.VarTupleType), key.default
    return {
        "type": _type(takes, option),
        "metavar": option.metavar,
        "multiple": several,
        "help": f"{text} Repeatable." if several else text,
        "default": int(default) if isinstance(default, float) and default.is_integer() else default,
        "show_default": not several and default is not None,
    }


def _key_at(path: str) -> Key:
    table, name = path.split(".")
    part = keys_of(Scenario)[table].table
    assert part is not None  # noqa: S101
    return keys_of(part)[name]


def _help(description: str, table: str) -> str:
    """A key's help text without Markdown; a key of the same table that has an option is called by the option's name."""
    return _CODE.sub(lambda found: _NAME_OF_KEY.get(f"{table}.{found[1]}", found[1]), description)


def _type(takes: inspect.Type, option: KeyOption) -> click.ParamType[Any]:
    """The type of an option; upper bounds only of shares, since the scenario checks the others."""
    match takes:
        case inspect.LiteralType():
            return click.Choice([str(value) for value in takes.values])
        case inspect.IntType():
            return click.IntRange(min=takes.ge)
        case inspect.FloatType():
            most = takes.le if takes.le is not None and takes.le <= 1 else None
            return click.FloatRange(
                min=takes.ge if takes.gt is None else takes.gt, min_open=takes.gt is not None, max=most
            )
    if option.metavar == "DIR":
        return click.Path(file_okay=False)
    return click.Path(dir_okay=False) if option.metavar == "FILE" else click.STRING
