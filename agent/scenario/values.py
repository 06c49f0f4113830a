"""What the keys of a scenario are made of: numbers with their bounds, and what is said about a key."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from agent.fleet.population import MAX_DEVICES

LONGEST_SECONDS = 30 * 24 * 3600.0  # of anything in a scenario; ours
HIGHEST_RATE = 1e6  # a second; ours, far beyond one machine
LOWEST_RATE = 1e-6  # a second; ours: less than three a month
MOST_STEPS = 10_000
NAME_PATTERN = "^[A-Za-z][A-Za-z0-9_-]{0,63}$"  # so that a name fits a dotted path, a file name and a JUnit case


def key(description: str, unit: str = "", *, path: bool = False, example: Any = None) -> Meta:
    """What a key is for. ``path``: a file, relative to the scenario's own. ``example``: where the default is none."""
    return Meta(description=description, extra={"unit": unit, "path": path, "example": example})


Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_SECONDS)]
SomeSeconds = Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)]
Rate = Annotated[float, Meta(ge=LOWEST_RATE, le=HIGHEST_RATE)]
RateOrNone = Annotated[float, Meta(ge=0, le=HIGHEST_RATE)]
Count = Annotated[int, Meta(ge=1, le=MAX_DEVICES)]
