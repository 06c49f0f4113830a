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
    """The present rate of constant and Poisson arrivals, per second; null for other arrivals."""
    factor: float
    """The present pace of the arrivals relative to the plan: with 2 they come twice as fast."""


class RunState(Struct, frozen=True, kw_only=True):
    """A run. The counts of its phases are up to one second old."""

    name: str
    began: bool
    """Whether every worker is ready and the first phase has started. Before that no change is possible."""
    elapsed_s: float
    """Seconds since the start, including pauses."""
    paused: bool
    phases: list[RunPhase]
    changes: list[ChangeSummary]
    """The pauses and changed rates so far, as in results.json."""


class ChangeRate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new rate for a phase. Give either ``rate`` or ``factor``."""

    phase: Text
    """The name of the phase."""
    rate: Rate | None = None
    """Arrivals per second of the whole fleet, for constant and Poisson arrivals."""
    factor: Factor | None = None
    """The pace of the arrivals relative to the plan, for all kinds of arrivals: 2 is twice as fast."""
