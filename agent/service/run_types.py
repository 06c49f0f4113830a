"""The types of the control API of a run: JSON at both ends, and the schemas of its OpenAPI document."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from agent.measure.summaries import ChangeSummary
from agent.service.types import Count, Text
from agent.settings import Factor, Rate


class RunPhase(Struct, frozen=True, kw_only=True):
    """One phase of a run."""

    name: str
    kind: str
    state: Literal["planned", "running", "ended"]
    planned: Count
    """Operations to do; 0 before the phase starts."""
    started: Count
    done: Count
    """Operations that succeeded or failed."""
    failed: Count
    late: Count
    """Operations that started over 100 ms after they were due."""
    dropped: Count
    """Operations that were due and never started."""
    rate: float | None
    """Arrivals per second now, of constant and Poisson arrivals."""
    factor: float
    """By how much the phase goes through its arrivals faster than planned."""


class RunState(Struct, frozen=True, kw_only=True):
    """A run. The counts of its phases are those of the last second."""

    name: str
    began: bool
    """Whether every worker was ready, so that the first phase could start. No change can be made before."""
    elapsed_s: float
    """Seconds since the start, with pauses."""
    paused: bool
    phases: list[RunPhase]
    changes: list[ChangeSummary]
    """The pauses and changed rates so far, as in results.json."""


class ChangeRate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A changed rate of a phase. Give either ``rate`` or ``factor``."""

    phase: Text
    """Its name."""
    rate: Rate | None = None
    """Arrivals per second, of constant and Poisson arrivals."""
    factor: Factor | None = None
    """By how much the phase goes through its arrivals faster than planned; 1: as planned."""
