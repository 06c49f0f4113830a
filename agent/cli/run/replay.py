"""The changes of an earlier run, made again at the same times: ``lom-agent run SCENARIO --replay results.json``."""

from __future__ import annotations

import os

import msgspec
from msgspec.structs import replace

from agent.errors import OperatorError
from agent.measure.summaries import ChangeSummary
from agent.report.results import read_results
from agent.scenario.checks.changes import check_changes
from agent.scenario.types import Change, Scenario


def replayed(scenario: Scenario, results: str | os.PathLike[str] | None) -> Scenario:
    """The scenario with the changes that these results record, in place of its own; the same without results.

    Raises OperatorError if the results cannot be read, or record changes that this scenario cannot have.
    """
    if results is None:
        return scenario
    document = read_results(results)
    if document.merged is not None:
        raise OperatorError(f"--replay: expected the results of one run in {results}, found merged ones. Name one run.")
    try:
        changes = tuple(_planned(change) for change in document.changes)
        return check_changes(replace(scenario, changes=changes))
    except (OperatorError, msgspec.ValidationError) as error:
        raise OperatorError(f"--replay {results}: {error}") from error


def _planned(change: ChangeSummary) -> Change:
    """A recorded change as the scenario plans it: a rate counts from the start of its phase, without pauses.

    Raises ValidationError for numbers that no scenario may have.
    """
    at = change.at_s if change.phase_s is None else change.phase_s
    planned = {"at": at, "what": change.what, "phase": change.phase, "rate": change.rate, "factor": change.factor}
    return msgspec.convert(planned, Change)
