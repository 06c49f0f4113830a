"""Checks of the changes of a scenario: pauses that end, rates of phases that have one."""

from __future__ import annotations

from agent.errors import OperatorError
from agent.scenario.pacing import factor_of
from agent.scenario.types import Change, Scenario


def check_changes(scenario: Scenario) -> Scenario:
    """The same scenario; refuse changes that cannot be made. The phases have been checked. Raises OperatorError."""
    for number, change in enumerate(scenario.changes):
        try:
            _check(change, scenario)
        except OperatorError as error:
            raise OperatorError(f"change[{number}]: {error}") from error
    _check_pauses(scenario.changes)
    return scenario


def _check(change: Change, scenario: Scenario) -> None:
    if change.what != "rate":
        for name in ("phase", "rate", "factor"):
            if getattr(change, name) is not None:
                raise OperatorError(f'{name} goes with what = "rate", found what = "{change.what}"')
        return
    if change.phase is None:
        raise OperatorError('what = "rate" needs phase, the name of a phase')
    phase = next((each for each in scenario.phases if each.name == change.phase), None)
    if phase is None:
        names = ", ".join(each.name for each in scenario.phases)
        raise OperatorError(f'phase: expected one of {names}, found "{change.phase}"')
    factor_of(phase, scenario.load, rate=change.rate, factor=change.factor)


def _check_pauses(changes: tuple[Change, ...]) -> None:
    """Pauses and resumes alternate, and the last pause ends: a run that stays paused would never end."""
    paused: float | None = None
    latest = 0.0
    for number, change in enumerate(changes):
        if change.what == "rate":
            continue
        if change.at < latest:
            raise OperatorError(
                f"change[{number}] is at {change.at:g}, but a change before it is at {latest:g}: put the pauses in "
                "the order of their times"
            )
        latest = change.at
        if (change.what == "pause") == (paused is not None):
            found = "is paused already" if paused is not None else "is not paused"
            raise OperatorError(f'change[{number}] has what = "{change.what}", but the run {found} at {change.at:g}')
        paused = change.at if change.what == "pause" else None
    if paused is not None:
        raise OperatorError(f'the pause at {paused:g} has no end: add a change with what = "resume"')
