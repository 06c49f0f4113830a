"""What a Mac needs from outside while it does something, and what it does after its answer was taken.

A thing that takes more than one go is a generator of ``Steps``: it yields what it needs and is sent what came of it.
``net`` carries the needs out; ``answering`` does so without a network.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent.lom.requests import PowerRequest, RelayItem
from agent.profiles.scep import SCEPPayload

ReturnT = TypeVar("ReturnT")


@dataclass(frozen=True, slots=True)
class RelayItems:
    """Carry these items to their Devices. Sent back: a list of Outcome, in the same order."""

    items: tuple[RelayItem, ...]


@dataclass(frozen=True, slots=True)
class ObtainIdentity:
    """Get an identity by SCEP. Sent back: an Identity, or the PeerError that kept it from being issued."""

    payload: SCEPPayload


@dataclass(frozen=True, slots=True)
class CheckIn:
    """Send a check-in message. Sent back: the body of the answer (bytes), or a PeerError."""

    message: Mapping[str, Any]


Need = RelayItems | ObtainIdentity | CheckIn
Steps = Generator[Need, Any, ReturnT]


@dataclass(frozen=True, slots=True)
class Done(Generic[ReturnT]):
    """The steps are at their end; ``value`` is what they return."""

    value: ReturnT


def carry(steps: Steps[ReturnT], answer: Any) -> Need | Done[ReturnT]:
    """Send ``answer`` into the steps (None at first): what they need next, or what they return."""
    try:
        return steps.send(answer)
    except StopIteration as end:
        return Done(end.value)


@dataclass(frozen=True, slots=True)
class ChangePower:
    """Apply this to the Mac's own power."""

    request: PowerRequest


@dataclass(frozen=True, slots=True)
class LeaveManagement:
    """The Mac is enrolled no more; ``check_out`` says whether it tells its server."""

    check_out: bool


@dataclass(frozen=True, slots=True)
class Synchronise:
    """Bring the declarations up to date; ``tokens`` is what the command brought along, or empty."""

    tokens: bytes


# What waits until the server has taken the result of the command that asked for it.
Afterwards = ChangePower | LeaveManagement | Synchronise
