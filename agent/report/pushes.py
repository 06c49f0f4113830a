"""Refusals of the push gateway for reasons of its own: not failures of the server under test or of APNs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.measure.summaries import FailureSummary
from agent.push.reasons import OWN_GATEWAY, OwnCause
from agent.report.numbers import counted

_SENTENCES = {
    OwnCause.OVERLOADED: "The gateway refused {} because this machine was overloaded (503 ServiceUnavailable).",
    OwnCause.WORKER_LOST: "The gateway refused {} because the worker process of their Macs was gone.",
    OwnCause.SHUTDOWN: "The gateway refused {} because the run was ending (503 Shutdown).",
    OwnCause.CONNECTIONS: "The gateway closed {} because too many were open.",
}


def own_refusals(push: Mapping[str, Any]) -> list[str]:
    """A sentence for each cause, from the key ``push`` of the results; values that are not counts are ignored."""
    own = push.get("own")
    if not isinstance(own, Mapping):
        return []
    found = [(cause, own.get(cause.value)) for cause in OwnCause]
    return [_sentence(cause, number) for cause, number in found if type(number) is int and number > 0]


def own_failures(errors: Iterable[FailureSummary]) -> dict[str, int]:
    """The number of failures that the push gateway of this program caused, by operation."""
    return {error.operation: error.count for error in errors if error.kind == OWN_GATEWAY and error.count}


def _sentence(cause: OwnCause, number: int) -> str:
    words = ("connection", "connections") if cause is OwnCause.CONNECTIONS else ("push", "pushes")
    return _SENTENCES[cause].format(counted(number, *words))
