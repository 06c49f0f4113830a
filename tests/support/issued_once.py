"""A CA for tests that make the same Mac again and again: it issues each identity once."""

from __future__ import annotations

from typing import Any

from agent.pki.identity import Identity
from agent.pki.issuing.authority import Authority, Usage


class IssuedOnce(Authority):
    """Gives the identity that it issued before for the same name, usage and alternative names."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self._issued: dict[str, Identity] = {}

    def issue(self, common_name: str | None, usage: Usage, **keys: Any) -> Identity:
        """As `Authority.issue`."""
        asked = repr((common_name, usage, keys))
        if asked not in self._issued:
            self._issued[asked] = super().issue(common_name, usage, **keys)
        return self._issued[asked]
