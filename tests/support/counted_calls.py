"""How many calls something makes: a measure of its work that no other load of the machine changes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

from collections_off import without_collections


def calls_of(what: Callable[[], object]) -> int:
    """The calls of Python and C functions that ``what`` makes.

    A garbage collection in between would add those of Hypothesis' callback.
    """
    calls = itertools.count()
    with without_collections():
        sys.setprofile(lambda *_: next(calls) and None)
        try:
            what()
        finally:
            sys.setprofile(None)
    return next(calls)
