"""Syntax trees take most of their time in the garbage collector, which finds nothing in them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Let nothing be collected in the block, which makes many objects and no garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
