"""The I/O requests of a command, and the actions that follow the delivery of its result.

An operation that needs I/O is a generator (``Steps``): it yields a request and is sent the outcome. ``net`` performs
the requests; ``answering`` does so without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cryptography import x509

from agent.device.installing.software_update import Update
from agent.lom.power import AnyRequest
from agent.lom.requests import RelayItem
from agent.mdm.results import Result
from agent.profiles.acme import ACMEPayload
from agent.profiles.enrollment import Enrollment
from agent.profiles.scep import SCEPPayload

ReturnT = TypeVar("ReturnT")


@dataclass(frozen=True, slots=True)
class RelayItems:
    """Relay these items to their Devices. Outcome: a list of Outcome, in the same order."""

    items: tuple[RelayItem, ...]


@dataclass(frozen=True, slots=True)
class ObtainIdentity:
    """Obtain an identity by SCEP or ACME. Outcome: an Identity, or a PeerError."""

    payload: SCEPPayload | ACMEPayload
    anchors: tuple[x509.Certificate, ...]
    """The CA certificates of the profile with the payload."""


@dataclass(frozen=True, slots=True)
class AttestProperties:
    """Obtain an attestation of the Mac's properties. Outcome: its chain in DER, the leaf first, or a PeerError."""

    nonce: bytes | None
    """DeviceAttestationNonce."""


@dataclass(frozen=True, slots=True)
class CheckIn:
    """Send a check-in message to the server of ``enrollment``. Outcome: the answer's body (bytes), or a PeerError."""

    message: Mapping[str, Any]
    enrollment: Enrollment
    check: Callable[[bytes], object] | None = None
    """Raises PeerError for an answer that violates the protocol: then the check-in has failed with that error."""


@dataclass(frozen=True, slots=True)
class Download:
    """GET a file without the Mac's identity. Outcome: its bytes, or a PeerError."""

    url: str
    anchors: tuple[x509.Certificate, ...] = ()
    """Trusted beside the anchors of the system."""
    pins: tuple[x509.Certificate, ...] = ()
    """The server's chain has one of them, unless there are none."""


@dataclass(frozen=True, slots=True)
class ReadDate:
    """Read the date. Outcome: seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class DownloadByMDM:
    """GET a file of the MDM server like a message to it, with the enrollment's identity. Outcome as of Download."""

    url: str
    enrollment: Enrollment


IORequest = RelayItems | ObtainIdentity | CheckIn | Download | DownloadByMDM | ReadDate | AttestProperties
Steps = Generator[IORequest, Any, ReturnT]
CommandSteps = Steps[Result]


@dataclass(frozen=True, slots=True)
class Done(Generic[ReturnT]):
    """The steps have returned ``value``."""

    value: ReturnT


def advance(steps: Steps[ReturnT], answer: Any) -> IORequest | Done[ReturnT]:
    """Send ``answer`` (None at first) into the steps; returns the next I/O request, or the result in ``Done``."""
    try:
        return steps.send(answer)
    except StopIteration as end:
        return Done(end.value)


@dataclass(frozen=True, slots=True)
class ChangePower:
    """Apply this request to the Mac's own power."""

    request: AnyRequest


@dataclass(frozen=True, slots=True)
class LeaveManagement:
    """Unenroll the Mac, with a CheckOut if the enrollment has CheckOutWhenRemoved."""


@dataclass(frozen=True, slots=True)
class Erase:
    """Reset the Mac to its factory state."""


@dataclass(frozen=True, slots=True)
class SynchroniseDeclarations:
    """Update the declarations. ``tokens`` is Data of the command, or empty."""

    tokens: bytes


@dataclass(frozen=True, slots=True)
class InstallApps:
    """Install the apps that wait for it."""


@dataclass(frozen=True, slots=True)
class UpdateSoftware:
    """Download this update of macOS, and install it when its time has come."""

    update: Update


# Actions that wait until the server has accepted the result of the command.
FollowUp = ChangePower | Erase | InstallApps | LeaveManagement | SynchroniseDeclarations | UpdateSoftware
