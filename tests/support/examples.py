"""How many examples a property gets: the usual number, or for a heavy or wide one a number of its own."""

from __future__ import annotations

from hypothesis import settings

USUAL_EXAMPLES = 50  # in the profiles `default` and `ci`; `tox -e explore` has 20 times as many


def examples(count: int) -> settings:
    """``count`` examples in a usual run, and more or fewer in proportion in a profile with more or fewer."""
    return settings(max_examples=max(1, count * settings.default.max_examples // USUAL_EXAMPLES))
