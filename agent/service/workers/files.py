"""The state files of a service in several processes: one of the front and one of each worker, which belong together."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from agent.errors import OperatorError
from agent.net.timing import Clock
from agent.state.fleet import FleetState

_FLEET = "fleet"  # in all files of a fleet: its name
_WORKER = "worker"  # in the file of a worker: its number


def fleet_of(state: FleetState) -> str:
    """The name that all files of a fleet have; empty for files of a version that gave none."""
    name = state.setting(_FLEET)
    if name is None and state.numbers().macs is None:
        name = str(uuid4())
        state.set(_FLEET, name)
        state.flush()
    return name or ""


def check_is_whole(state: FleetState) -> None:
    """Raises OperatorError for the file of a worker, which has a part of a fleet."""
    worker = state.setting(_WORKER)
    if worker is not None:
        raise OperatorError(
            f"Expected the state of a fleet in {state.path}, found the part that worker {worker} has. Name the file "
            "beside it whose name does not end with a worker."
        )


def open_part(path: Path, clock: Clock, fleet: str, worker: int, *, is_new: bool) -> FleetState:
    """The file of a worker. ``is_new``: that of the front has no Macs yet.

    Raises OperatorError if it is missing, or is not that of this worker of this fleet.
    """
    if not is_new and not path.exists():
        raise OperatorError(
            f"Expected the state of worker {worker} in {path}, found no such file. Put it back beside the others, or "
            "name another state file to start anew."
        )
    state = FleetState(path, clock)
    try:
        found = state.setting(_FLEET), state.setting(_WORKER)
        if found == (None, None) and fleet and is_new and state.numbers().macs is None:
            state.set(_FLEET, fleet)
            state.set(_WORKER, str(worker))
        elif found != ((fleet, str(worker)) if fleet else (None, None)):
            raise OperatorError(
                f"Expected the state of worker {worker} of this fleet in {path}, found that of another one. Put the "
                "files of one fleet back together, or name another state file to start anew."
            )
    except BaseException:
        state.close()
        raise
    return state
