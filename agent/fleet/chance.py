"""Random numbers derived from the seed: a reproducible sequence for each Mac and purpose."""

from __future__ import annotations

from agent.fleet.derivation import Derivation

_SCALE = 1 << 64
_COUNT_SHIFT = 32  # an index is below 2 ** 32, so index and count fit together in 64 bits


class Chance:
    """A generator: each call returns the next number in [0, 1). ``purpose`` is at most 16 bytes.

    ``count`` is how many were drawn.
    """

    __slots__ = ("_index", "_purpose", "_source", "count")

    def __init__(self, source: Derivation, index: int, purpose: bytes) -> None:
        self._source = source
        self._index = index
        self._purpose = purpose
        self.count = 0

    def __call__(self) -> float:
        """The next number."""
        digest = self._source.digest(self._purpose, self._index + (self.count << _COUNT_SHIFT))
        self.count += 1
        return int.from_bytes(digest[:8], "big") / _SCALE
