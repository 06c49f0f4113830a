"""Where the workers of ``lom-agent run`` are: on this machine, or on others that join; and where the lab listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from agent.errors import OperatorError
from agent.load.control.joining import DEFAULT_JOIN_FILE, EXAMPLE_PORT
from agent.load.control.listening import LOOPBACK, ListenAt, listen_at
from agent.load.launch.launching import JOIN_SECONDS, JoinLauncher, Launcher, LocalLauncher
from agent.load.machine.limits import workers_of
from agent.load.shard.plan import cut
from agent.net.transport.addresses import parse_address
from agent.processes import ProcessEach
from agent.scenario.types import Scenario

_ELSEWHERE = ("listen", "executor")
_DASK = "dask="


class Places(msgspec.Struct, frozen=True):
    """Where a run takes place."""

    launcher: Launcher
    workers: int
    listen: ListenAt = LOOPBACK
    lab: ListenAt = LOOPBACK


def check_places(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that do not go together."""
    elsewhere = [f"--{name}" for name in _ELSEWHERE if options[name] is not None]
    if elsewhere and (options["state"] is not None or options["resume"] is not None):
        raise click.UsageError(
            f"--state and --resume keep the Macs in files of this machine: leave them out, or {' and '.join(elsewhere)}"
        )
    if options["executor"] is not None and not options["executor"].startswith(_DASK):
        raise click.UsageError(
            f"--executor takes dask=SCHEDULER, such as dask=tls://scheduler:8786; found {options['executor']!r}"
        )
    if options["join_file"] is not None and (options["listen"] is None or options["executor"] is not None):
        raise click.UsageError("--join-file goes with --listen, without --executor, whose workers need none")
    if options["join_timeout"] is not None and not elsewhere:
        raise click.UsageError("--join-timeout goes with --listen or --executor")
    if options["advertise"] is not None and not any(options[name] for name in ("listen", "lab_listen", "executor")):
        raise click.UsageError("--advertise goes with --listen, --lab-listen or --executor")


def prepared_for(scenario: Scenario, options: Mapping[str, Any]) -> int:
    """How many workers this process starts: none where others do. Raises OperatorError."""
    if any(options[name] is not None for name in _ELSEWHERE):
        return 0
    return len(cut(scenario.fleet.population, workers_of(scenario)))


def places_of(
    reactor: Any, scenario: Scenario, options: Mapping[str, Any], executor: ProcessEach, workers: int | None
) -> Places:
    """Where this run takes place; ``workers`` is the number of a run that is resumed. Raises OperatorError."""
    lab = _lab(scenario, options)
    if all(options[name] is None for name in _ELSEWHERE):
        return Places(LocalLauncher(executor, executor.kill), workers or workers_of(scenario), lab=lab or LOOPBACK)
    workers = workers_of(scenario, elsewhere=True)
    launcher: Launcher
    if options["executor"] is None:
        listen = _listen(options, "listen")
        seconds = JOIN_SECONDS if options["join_timeout"] is None else options["join_timeout"]
        launcher = JoinLauncher(options["join_file"] or DEFAULT_JOIN_FILE, seconds)
    else:
        from agent.load.launch.dask import DaskLauncher, own_address  # needs the extra lom-agent[dask]

        scheduler = options["executor"].removeprefix(_DASK)
        given = options["listen"] is not None
        listen = (
            _listen(options, "listen")
            if given
            else listen_at((own_address(scheduler), 0), options["advertise"], "--listen")
        )
        launcher = DaskLauncher(reactor, scheduler, options["join_timeout"] or JOIN_SECONDS)
    return Places(launcher, workers, listen, lab or ListenAt(listen.host, 0, listen.names))


def _listen(options: Mapping[str, Any], name: str) -> ListenAt:
    option = f"--{name.replace('_', '-')}"
    return listen_at(parse_address(options[name], option, EXAMPLE_PORT), options["advertise"], option)


def _lab(scenario: Scenario, options: Mapping[str, Any]) -> ListenAt | None:
    """Where the embedded lab listens; None if that is not said. Raises OperatorError where there is no embedded lab."""
    if options["lab_listen"] is None:
        return None
    if scenario.server.adapter != "lab" or scenario.server.lab is not None:
        raise OperatorError(
            "Expected a scenario with the embedded lab for --lab-listen, found one with another server. Leave it out."
        )
    return _listen(options, "lab_listen")
