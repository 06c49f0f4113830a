"""The I/O requests of a command, and the actions that follow the delivery of its result.

An operation that needs I/O is a generator (``Steps``): it yields a request and is sent the outcome. ``net`` performs
the requests; ``answering`` does so without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from cryptography import x509

from agent.device.installing.software_update import Update
from agent.lom.power import AnyRequest
from agent.lom.requests import RelayItem
from agent.mdm.results import Result
from agent.profiles.acme import ACMEPayload
from agent.profiles.enrollment import Enrollment
from agent.profiles.scep import SCEPPayload

ReturnT = TypeVar("ReturnT")


class RelayItems(msgspec.Struct, frozen=True):
    """Relay these items to their Devices. Outcome: a list of Outcome, in the same order."""

    items: tuple[RelayItem, ...]


class ObtainIdentity(msgspec.Struct, frozen=True):
    """Obtain an identity by SCEP or ACME. Outcome: an Identity, or a PeerError."""

    payload: SCEPPayload | ACMEPayload
    anchors: tuple[x509.Certificate, ...]
    """The CA certificates of the profile with the payload."""


class AttestProperties(msgspec.Struct, frozen=True):
    """Obtain an attestation of the Mac's properties. Outcome: its chain in DER, the leaf first, or a PeerError."""

    nonce: bytes | None
    """DeviceAttestationNonce."""


class CheckIn(msgspec.Struct, frozen=True):
    """Send a check-in message to the server of ``enrollment``. Outcome: the answer's body (bytes), or a PeerError."""

    message: Mapping[str, Any]
    enrollment: Enrollment
    check: Callable[[bytes], object] | None = None
    """Raises PeerError for an answer that violates the protocol: then the check-in has failed with that error."""


class Download(msgspec.Struct, frozen=True):
    """GET a file without the Mac's identity. Outcome: its bytes, or a PeerError."""

    url: str
    anchors: tuple[x509.Certificate, ...] = ()
    """Trusted beside the anchors of the system."""
    pins: tuple[x509.Certificate, ...] = ()
    """The server's chain has one of them, unless there are none."""


class ReadDate(msgspec.Struct, frozen=True):
    """Read the date. Outcome: seconds since the epoch."""


class DownloadByMDM(msgspec.Struct, frozen=True):
    """GET a file of the MDM server like a message to it, with the enrollment's identity. Outcome as of Download."""

    url: str
    enrollment: Enrollment


IORequest = RelayItems | ObtainIdentity | CheckIn | Download | DownloadByMDM | ReadDate | AttestProperties
Steps = Generator[IORequest, Any, ReturnT]
CommandSteps = Steps[Result]


class Done(msgspec.Struct, Generic[ReturnT], frozen=True):
    """The steps have returned ``value``."""

    value: ReturnT


def advance(steps: Steps[ReturnT], answer: Any) -> IORequest | Done[ReturnT]:
    """Send ``answer`` (None at first) into the steps; returns the next I/O request, or the result in ``Done``."""
    try:
        return steps.send(answer)
    except StopIteration as end:
        return Done(end.value)


class ChangePower(msgspec.Struct, frozen=True):
    """Apply this request to the Mac's own power."""

    request: AnyRequest


class LeaveManagement(msgspec.Struct, frozen=True):
    """Unenroll the Mac, with a CheckOut if the enrollment has CheckOutWhenRemoved."""


class Erase(msgspec.Struct, frozen=True):
    """Reset the Mac to its factory state."""


class SynchroniseDeclarations(msgspec.Struct, frozen=True):
    """Update the declarations. ``tokens`` is Data of the command, or empty."""

    tokens: bytes


class InstallApps(msgspec.Struct, frozen=True):
    """Install the apps that wait for it."""


class UpdateSoftware(msgspec.Struct, frozen=True):
    """Download this update of macOS, and install it when its time has come."""

    update: Update


# Actions that wait until the server has accepted the result of the command.
FollowUp = ChangePower | Erase | InstallApps | LeaveManagement | SynchroniseDeclarations | UpdateSoftware
