"""How many examples a property gets that is too heavy, or too wide, for Hypothesis' usual hundred."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100  # of Hypothesis, and so of the profiles `default` and `ci`


def examples(count: int) -> settings:
    """``count`` examples in a usual run, and in proportion in a profile that has more or fewer than ``USUAL``."""
    return settings(max_examples=max(1, count * settings.default.max_examples // USUAL))
