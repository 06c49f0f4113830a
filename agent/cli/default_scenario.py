"""The scenario of a run: a file with the options as overrides, or what ``lom-agent run`` does by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from agent.scenario.reading import names_no_server, read_scenario, scenario_from
from agent.scenario.types import Scenario

POLL_SECONDS = 60.0  # ours: how often a Mac looks by itself where there is no push
AT_ONCE = 64  # Macs: connections are made as fast as both ends can, and none waits for long
LAB_AT_ONCE = 8  # the lab shares the cores with the Macs: more at once only wait longer, and end no sooner

_KEYS = {
    "workers": "load.workers",
    "devices": "fleet.devices",
    "segment_size": "fleet.segment_size",
    "seed": "fleet.seed",
    "enroll": "server.enroll",
    "identity": "server.identity",
    "keys": "server.keys",
    "ca": "server.ca",
    "insecure": "server.insecure",
    "enroll_retries": "server.retries",
    "not_now": "fleet.not_now",
    "not_now_for": "fleet.not_now_for",
    "not_now_retry": "fleet.not_now_retry",
    "lom_network": "lom.network",
    "boot": "fleet.boot",
    "shutdown": "fleet.shutdown",
    "apns": "push.listen",
    "apns_tls": "push.tls",
    "apns_cert": "push.cert",
    "apns_key": "push.key",
    "apns_provider_ca": "push.provider_ca",
    "apns_strict": "push.strict",
    "apns_delay": "push.delay",
    "apns_power_saving": "push.power_saving",
    "apns_rule": "push.rules",
}
_USUAL_ONLY = {
    "rate": "phase.NAME.rate",
    "stay": "phase.NAME.seconds of an idle phase",
    "poll": "phase.NAME.poll of an idle phase",
}


def scenario_of(path: str | None, options: Mapping[str, Any], context: click.Context) -> Scenario:
    """The scenario of ``path``, or the usual one, changed by what was given. Raises OperatorError and UsageError."""
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    overrides = [f"{key}={_toml(options[name])}" for name, key in _KEYS.items() if name in given]
    overrides += [f"fleet.power.{_choice(text)}" for text in options["power"]]
    overrides += options["overrides"]
    if path is not None:
        for name, key in _USUAL_ONLY.items():
            if name in given:
                raise click.UsageError(f"--{name} is not for a scenario's file: say --set {key}=…")
        said = any(text.strip().startswith(("server.adapter", "server.lab")) for text in options["overrides"])
        if "enroll" in given and not said and names_no_server(path):
            overrides = ["server.adapter=none", *overrides]  # not the embedded lab, but the server of --enroll
        return read_scenario(path, overrides)
    return scenario_from(_usual(options), overrides, where="the options")


def _usual(options: Mapping[str, Any]) -> dict[str, Any]:
    if options["enroll"] is None:
        for name in ("ca", "insecure", "stay", "poll"):
            if options[name]:
                raise click.UsageError(f"--{name} goes with --enroll: the embedded lab needs none")
        return {"name": "lom-agent run", "load": {"concurrency": LAB_AT_ONCE}, "phase": _in_the_lab(options)}
    if options["poll"] and not options["stay"]:
        raise click.UsageError("--poll goes with --stay: without it no Mac stays to look again")
    if options["identity"] is not None:
        raise click.UsageError("--identity is about the lab's profile; with --enroll the server's profile decides")
    return {
        "name": "lom-agent run",
        "server": {"adapter": "none"},
        "load": {"concurrency": AT_ONCE},
        "phase": _in_a_server(options),
    }


def _enrol(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "enroll", **({} if options["rate"] is None else {"rate": options["rate"]})}


def _in_the_lab(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Enrol, set LOM up, reset every Mac; then one segment is off for a while, and a command waits for its Macs."""
    return [
        _enrol(options),
        {"kind": "lom_setup"},
        {"kind": "lom", "name": "reset", "request": "Reset", "per_request": 0},
        {"kind": "lom", "name": "power_off", "request": "PowerOFF", "per_request": 0, **_FIRST_DEVICES},
        {
            "kind": "command",
            "name": "while_off",
            "request": {"RequestType": "ProfileList"},
            "segments": 1,
            "wait": False,
        },
        {"kind": "idle", "name": "off", "seconds": 0.5},
        {"kind": "lom", "name": "power_on", "request": "PowerON", "per_request": 0, **_FIRST_DEVICES},
    ]


_FIRST_DEVICES = {"segments": 1, "controllers": False}


def _in_a_server(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Enrol, look for commands once, stay. With the push gateway the Macs wait for the server's pushes."""
    phases = [_enrol(options)]
    pushed = options["apns"] is not None
    if not pushed:
        phases.append({"kind": "checkin", "name": "first_session", "by": "self"})
    if options["stay"]:
        poll = options["poll"] or (None if pushed else POLL_SECONDS)
        phases.append({"kind": "idle", "name": "stay", "seconds": options["stay"]})
        if poll is not None:
            phases[-1]["poll"] = poll
    return phases


def _choice(text: str) -> str:
    """``CASE=CHOICE`` as the override of a scenario's key."""
    case, _, choice = text.partition("=")
    return f"{case.strip().replace('-', '_')}={_toml(choice.strip())}"


def _toml(value: object) -> str:
    """A value as TOML has it; JSON's strings, numbers, booleans and arrays of strings are TOML's, too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
