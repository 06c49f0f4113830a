"""Who waits for what of the Macs: a command's result, a session's end, a Mac that goes down.

The Macs call it in the middle of their work (`agent.net.watch.Watch`), so it tells those who wait in the next
turn of the reactor.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from agent.errors import PeerError
from agent.mdm.results import Status
from agent.net.in_hand import InHand
from agent.net.reactor import Reactor
from agent.net.watch import Watched


class ResultMissing(PeerError):
    """The server did not bring a command to its Mac, or did not take the result, in time."""

    kind = "no_result"


class SessionStuck(PeerError):
    """A Mac's session with the server did not come to its end, or never began."""

    kind = "session_stuck"


class WentDown(PeerError):
    """The Mac went down in the middle of its session."""

    kind = "stopped"


class Watcher:
    """The watch of one shard's Macs."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._results: dict[str, Deferred[InHand]] = {}
        self._sessions: dict[int, list[Deferred[PeerError | None]]] = {}
        self._told: list[tuple[Deferred[Any], Any]] = []

    async def result(self, command_uuid: str, seconds: float) -> InHand:
        """The command when the server has taken its last result, one that is not NotNow. Raises ResultMissing."""
        arrived: Deferred[InHand] = Deferred()
        self._results[command_uuid] = arrived
        try:
            return await arrived.addTimeout(seconds, self._reactor)  # type: ignore[arg-type]
        except DeferredTimeout:
            raise ResultMissing(f"the server took no result of the command within {seconds:g} s") from None
        finally:
            self._results.pop(command_uuid, None)

    async def session_end(self, index: int, seconds: float) -> PeerError | None:
        """What Mac ``index``'s next session ends in; None is good order. Raises SessionStuck."""
        ended: Deferred[PeerError | None] = Deferred()
        waiting = self._sessions.setdefault(index, [])
        waiting.append(ended)
        try:
            return await ended.addTimeout(seconds, self._reactor)  # type: ignore[arg-type]
        except DeferredTimeout:
            raise SessionStuck(f"no session of the Mac came to its end within {seconds:g} s") from None
        finally:
            if ended in waiting:
                waiting.remove(ended)
            if not waiting and self._sessions.get(index) is waiting:
                del self._sessions[index]

    # What a Mac calls.

    def taken(self, _client: Watched, work: InHand) -> None:
        """The server took a result."""
        if work.status is not Status.NOT_NOW:
            arrived = self._results.pop(work.command.uuid, None)
            if arrived is not None:
                self._tell(arrived, work)

    def session_over(self, client: Watched, failure: PeerError | None) -> None:
        """A session came to its end."""
        for ended in self._sessions.pop(client.index, ()):
            self._tell(ended, failure)

    def went_down(self, client: Watched) -> None:
        """The Mac does not run any more."""
        for ended in self._sessions.pop(client.index, ()):
            self._tell(ended, WentDown("the Mac went down before its session ended"))

    def _tell(self, waiting: Deferred[Any], outcome: object) -> None:
        if not self._told:
            self._reactor.callLater(0, self._flush)
        self._told.append((waiting, outcome))

    def _flush(self) -> None:
        told, self._told = self._told, []
        for waiting, outcome in told:
            if not waiting.called:
                waiting.callback(outcome)
