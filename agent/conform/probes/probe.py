"""One probe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from agent.conform.stage.stage import Stage

PROBE_SECONDS = 60.0  # ours: after this a probe is stopped


class Probe(msgspec.Struct, frozen=True):
    """Something that is provoked. ``play`` may raise: then the probe is stopped with that reason."""

    name: str
    """Lower case, with hyphens; unique."""
    does: str
    """What it does, as a sentence."""
    play: Callable[[Stage], Awaitable[None]]
    seconds: float = PROBE_SECONDS
    """After this it is stopped."""
