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

_AFTER_PUSHES = ("push", "enqueue", "delivery", "lom_setup", "lom_device", "return")  # operations that wait for a push


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


def own_delays(push: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The operations whose times include retries after refusals of this program's gateway, by the key ``push``.

    Those at its shutdown delay none: their operations were over or are cut short.
    """
    own = (push or {}).get("own")
    if not isinstance(own, Mapping):
        return ()
    late = (number for cause, number in own.items() if cause != OwnCause.SHUTDOWN.value)
    return _AFTER_PUSHES if any(type(number) is int and number > 0 for number in late) else ()


def _sentence(cause: OwnCause, number: int) -> str:
    words = ("connection", "connections") if cause is OwnCause.CONNECTIONS else ("push", "pushes")
    return _SENTENCES[cause].format(counted(number, *words))
