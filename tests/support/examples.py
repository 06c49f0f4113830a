"""How many examples a property gets: the usual number, or for a heavy or wide one a number of its own."""

from __future__ import annotations

from hypothesis import settings

USUAL_EXAMPLES = 50  # in the profiles `default` and `ci`; `tox -e explore` has 20 times as many


def examples(count: int, *, explored: int = 0) -> settings:
    """``count`` examples in a usual run, and more or fewer in proportion in a profile with more or fewer.

    ``explored`` takes the place of ``count`` in `tox -e explore`, for parsers whose rare faults take many examples.
    """
    most = settings.default.max_examples
    if most > USUAL_EXAMPLES:
        count = max(count, explored)
    return settings(max_examples=max(1, count * most // USUAL_EXAMPLES))
