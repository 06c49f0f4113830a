"""Chance that follows from the seed: for one Mac and one purpose, a row of numbers that is always the same."""

from __future__ import annotations

from agent.fleet.derivation import Derivation

_SCALE = 1 << 64
_COUNT_SHIFT = 32  # an index is below 2 ** 32, so that index and count together are one number below 2 ** 64


class Chance:
    """Call it for the next number, from 0 up to but not including 1. ``purpose`` is at most 16 bytes."""

    __slots__ = ("_count", "_index", "_purpose", "_source")

    def __init__(self, source: Derivation, index: int, purpose: bytes) -> None:
        self._source = source
        self._index = index
        self._purpose = purpose
        self._count = 0

    def __call__(self) -> float:
        """The next number."""
        digest = self._source.digest(self._purpose, self._index + (self._count << _COUNT_SHIFT))
        self._count += 1
        return int.from_bytes(digest[:8], "big") / _SCALE
