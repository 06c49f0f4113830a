"""How a setting is declared: its bounds, and the help text of its key.

A module that has settings declares them as fields of a msgspec Struct, ``Annotated[TYPE, key(HELP)] = DEFAULT``.
Scenario keys, their checks, docs/scenario.md and the options of ``lom-agent run`` are made from these fields.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

LONGEST_SECONDS = 30 * 24 * 3600.0  # of any duration in a scenario; ours
HIGHEST_RATE = 1e6  # per second; ours, far beyond one machine
LOWEST_RATE = 1e-6  # per second; ours: fewer than three a month


def key(description: str, unit: str = "", *, path: bool = False, example: Any = None) -> Meta:
    """The help text of a setting, in Markdown.

    ``path``: the value is a file name, relative to the scenario's folder. ``example``: shown where the default is none.
    """
    return Meta(description=description, extra={"unit": unit, "path": path, "example": example})


Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_SECONDS)]
SomeSeconds = Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)]
Retries = Annotated[int, Meta(ge=0, le=1000)]
Rate = Annotated[float, Meta(ge=LOWEST_RATE, le=HIGHEST_RATE)]
Factor = Annotated[float, Meta(ge=0.001, le=1000)]  # ours
RateOrNone = Annotated[float, Meta(ge=0, le=HIGHEST_RATE)]
