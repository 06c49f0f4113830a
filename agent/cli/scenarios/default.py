"""The scenario of a run: a file or the default scenario, with the options as overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from agent.cli.scenarios.options import overrides, toml_value
from agent.scenario.reading import names_no_server, read_scenario, scenario_from
from agent.scenario.types import Scenario

POLL_SECONDS = 60.0  # ours: how often a Mac polls without push
AT_ONCE = 64  # Macs; ours: as fast as both ends can, without long waits
LAB_AT_ONCE = 8  # the lab shares the cores with the Macs: with more Macs each only waits longer

# Options that build the default scenario's phases, and the keys that a file has for the same.
_PHASE_OPTIONS = {
    "rate": "phase.NAME.rate",
    "stay": "phase.NAME.seconds of an idle phase",
    "poll": "phase.NAME.poll of an idle phase",
}


def scenario_of(path: str | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> Scenario:
    """The scenario of ``path``, or the default one, with the ``given`` options as overrides.

    ``options`` has every option, ``given`` those of the command line. Raises OperatorError and UsageError.
    """
    changes = [*overrides(given), *(f"fleet.power.{_choice(text)}" for text in options["power"]), *options["overrides"]]
    if path is None:
        return scenario_from(_default(options, given), changes, options["rules"], where="the options")
    for name, key in _PHASE_OPTIONS.items():
        if name in given:
            raise click.UsageError(f"--{name} is for a run without SCENARIO.toml. With a file, use --set {key}=…")
    names_server = any(text.strip().startswith(("server.adapter", "server.lab")) for text in options["overrides"])
    if "enroll" in given and not names_server and names_no_server(path):
        changes = ["server.adapter=none", *changes]  # the server of --enroll instead of the embedded lab
    return read_scenario(path, changes, options["rules"])


def _default(options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if options["enroll"] is None:
        for name in ("ca", "insecure", "stay", "poll"):
            if options[name]:
                raise click.UsageError(f"--{name} needs --enroll: the embedded lab does not need it")
        return {"name": "lom-agent run", "load": {"concurrency": LAB_AT_ONCE}, "phase": _in_the_lab(options)}
    if options["poll"] and not options["stay"]:
        raise click.UsageError("--poll needs --stay: without it no Mac stays to poll")
    if "identity" in given:
        raise click.UsageError("--identity is for the lab's profile; with --enroll the server's profile decides")
    return {
        "name": "lom-agent run",
        "server": {"adapter": "none"},
        "load": {"concurrency": AT_ONCE},
        "phase": _in_a_server(options),
    }


def _enroll(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "enroll", **({} if options["rate"] is None else {"rate": options["rate"]})}


def _in_the_lab(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Enroll, set up LOM, reset every Mac; then one segment is off for a while, with a command queued for its Macs."""
    return [
        _enroll(options),
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
    """Enroll, poll once, stay. With the push gateway the Macs wait for pushes instead."""
    phases = [_enroll(options)]
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
    """``CASE=CHOICE`` as an override of a key of ``fleet.power``."""
    case, _, choice = text.partition("=")
    return f"{case.strip().replace('-', '_')}={toml_value(choice.strip())}"
