"""The wall clock of forked processes, which a test can set.

The fork server imports this before any other module: some keep the clock that they find at their import.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_wall_clock = time.time
ahead: Callable[[], float] = lambda: 0.0  # noqa: E731  # seconds


def _now() -> float:
    return _wall_clock() + ahead()


time.time = _now
