"""Who is told what a Mac has done, and what of the Mac they see."""

from __future__ import annotations

from typing import Protocol

from agent.errors import PeerError
from agent.net.in_hand import InHand


class Watched(Protocol):
    """A Mac that can be watched. ``index`` is its place in the fleet; ``watch`` hears what it has done."""

    index: int
    watch: Watch | None


class Watch(Protocol):
    """Who is told what a Mac has done. Called in the middle of its work: no word to the Mac before the next turn."""

    def taken(self, client: Watched, work: InHand) -> None:
        """The server took the result of a command."""

    def session_over(self, client: Watched, failure: PeerError | None) -> None:
        """A session came to its end, in good order or because of ``failure``."""

    def went_down(self, client: Watched) -> None:
        """The Mac does not run any more; a session that was open has no end."""
