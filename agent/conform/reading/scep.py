"""What the checks and the probes of SCEP share. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.trace.records import ExchangeRecord

PAYLOAD = "com.apple.security.scep"
NO_PAYLOAD = "The enrollment profile has no SCEP payload."


def operations(evidence: Evidence, operation: str) -> list[ExchangeRecord]:
    """The requests of a SCEP operation."""
    return evidence.exchanges("scep", message_type=operation)


def settings(evidence: Evidence) -> list[tuple[SentProfile, Mapping[str, Any]]]:
    """PayloadContent of the SCEP payloads, with the profile that each is in."""
    return [
        (profile, payload["PayloadContent"])
        for profile in evidence.profiles()
        for payload in profile.of_type(PAYLOAD)
        if isinstance(payload.get("PayloadContent"), dict)
    ]


def unasked(evidence: Evidence) -> str:
    """Why an operation was not asked for: a sentence."""
    return "The SCEP operation could not be asked for." if settings(evidence) else NO_PAYLOAD
