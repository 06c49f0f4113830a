"""What a Mac needs from outside while it does something, and what it does after its answer was taken.

A thing that takes more than one go is a generator of ``Steps``: it yields what it needs and is sent what came of it.
``net`` carries the needs out; ``answering`` does so without a network.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cryptography import x509

from agent.lom.power import AnyRequest
from agent.lom.requests import RelayItem
from agent.profiles.enrolment import Enrolment
from agent.profiles.scep import SCEPPayload

ReturnT = TypeVar("ReturnT")


@dataclass(frozen=True, slots=True)
class RelayItems:
    """Carry these items to their Devices. Sent back: a list of Outcome, in the same order."""

    items: tuple[RelayItem, ...]


@dataclass(frozen=True, slots=True)
class ObtainIdentity:
    """Get an identity by SCEP. Sent back: an Identity, or the PeerError that kept it from being issued.

    ``anchors`` are the CA certificates of the profile that asks for it.
    """

    payload: SCEPPayload
    anchors: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class CheckIn:
    """Send a check-in message to the server of ``enrolment``. Sent back: the answer's body (bytes), or a PeerError."""

    message: Mapping[str, Any]
    enrolment: Enrolment


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

    request: AnyRequest


@dataclass(frozen=True, slots=True)
class LeaveManagement:
    """The Mac is enrolled no more, and tells its server where the enrolment says so."""


@dataclass(frozen=True, slots=True)
class Erase:
    """The Mac is as it came from the factory."""


@dataclass(frozen=True, slots=True)
class Synchronise:
    """Bring the declarations up to date; ``tokens`` is what the command brought along, or empty."""

    tokens: bytes


# What waits until the server has taken the result of the command that asked for it.
Afterwards = ChangePower | Erase | LeaveManagement | Synchronise
