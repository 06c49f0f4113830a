"""What a request to the service asks for that cannot be done."""

from __future__ import annotations

from typing import ClassVar

from agent.errors import LomAgentError, OperatorError


class NotFound(OperatorError):
    """There is no such Mac, segment or rule."""

    kind: ClassVar[str] = "not_found"


class NoSuchMac(NotFound):
    """No Mac has this UDID, serial number or number."""


class WorkerGone(OperatorError):
    """The worker process that has the Mac has ended."""

    kind: ClassVar[str] = "worker_gone"


class WorkersLost(LomAgentError):
    """A service has ended whose workers ended before it: its exit status tells of them."""

    kind: ClassVar[str] = "workers_lost"


class Conflict(OperatorError):
    """The request contradicts the present state, such as the power button of a Mac without mains."""

    kind: ClassVar[str] = "conflict"


def not_a_mac(text: str) -> NoSuchMac:
    """The error for a text that names no Mac."""
    return NoSuchMac(
        f"Expected the UDID, serial number or number of a Mac, found {text[:100]!r}. GET /v1/macs lists them."
    )


def not_a_segment(text: str) -> NotFound:
    """The error for a text that names no segment."""
    return NotFound(f"Expected the number of a segment, found {text[:100]!r}. GET /v1/macs shows them.")


def not_a_rule(text: str) -> NotFound:
    """The error for a text that names no rule."""
    return NotFound(f"Expected the id of a rule, found {text[:100]!r}. GET /v1/rules lists them.")


def seed_in_use(seed: str) -> Conflict:
    """The error for Macs that are there already."""
    return Conflict(
        f"Expected a seed that no Macs of this service have, found {seed!r} again: the Macs would be there twice. Give "
        "another seed, or remove those Macs first."
    )


def not_manual() -> Conflict:
    """The error for a clock that cannot be advanced."""
    return Conflict("Expected a manual clock, found the real one. Start the service with --clock manual.")


def without_gateway() -> OperatorError:
    """The error for a rule about pushes where none come."""
    return OperatorError(
        'Expected an APNs gateway for a rule with on = "push", found none. Start the service with --lab or --apns.'
    )
