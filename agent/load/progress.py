"""What a running job tells whoever watches it: steps with a total, and how far each has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A watcher of a job. Steps come one after another; each is announced before it is advanced."""

    def step(self, name: str, total: int) -> None:
        """A step called ``name`` starts; ``total`` things are to be done in it."""

    def advance(self, name: str, *, failed: bool = False) -> None:
        """One more thing of the step ``name`` is done; ``failed`` says that it went wrong."""

    def note(self, text: str) -> None:
        """Something a person should read now, once (an address, a warning)."""


class Silent:
    """The watcher that says nothing."""

    def step(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, name: str, *, failed: bool = False) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""
