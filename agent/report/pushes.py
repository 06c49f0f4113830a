"""What the push gateway turned away for causes of its own: no failure of the server under test or of APNs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.push.reasons import OwnCause
from agent.report.numbers import counted

_SENTENCES = {
    OwnCause.OVERLOADED: "The gateway refused {} because this machine was overloaded (503 ServiceUnavailable).",
    OwnCause.WORKER_LOST: "The gateway refused {} because the worker process of their Macs was gone.",
    OwnCause.SHUTDOWN: "The gateway refused {} because the run was at its end (503 Shutdown).",
    OwnCause.CONNECTIONS: "The gateway closed {} because there were too many at a time.",
}


def own_refusals(push: Mapping[str, Any]) -> list[str]:
    """A sentence for each cause, from the key ``push`` of a results document; what is no count is passed over."""
    own = push.get("own")
    if not isinstance(own, Mapping):
        return []
    found = [(cause, own.get(cause.value)) for cause in OwnCause]
    return [_sentence(cause, number) for cause, number in found if type(number) is int and number > 0]


def _sentence(cause: OwnCause, number: int) -> str:
    words = ("connection", "connections") if cause is OwnCause.CONNECTIONS else ("push", "pushes")
    return _SENTENCES[cause].format(counted(number, *words))
