"""Waits for events of the Macs: the result of a command, the end of a session, a shutdown.

The Macs call the Watcher while they process a message (`agent.net.mac.sessions.commands.MacObserver`), so it calls back
those who wait in the next iteration of the reactor.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from agent.errors import CutShort, PeerError
from agent.mdm.refusals import ResultRefused
from agent.mdm.results import Status
from agent.net.mac.client import MDMClient
from agent.net.mac.sessions.commands import CurrentCommand, MacObserver, ObservedMac
from agent.net.timing import OutOfTime, Reactor, Stalls, TimeLimit, within

_ROUNDING = 0.001  # seconds: the rounding error of a time limit


class ResultMissing(PeerError):
    """The server did not deliver a command to its Mac, or did not accept the result, in time."""

    kind = "no_result"
    timed_out = True


class CommandChanged(PeerError):
    """The server delivered another command under the CommandUUID of the one that was queued."""

    kind = "command_changed"


class SessionStuck(PeerError):
    """A Mac's session with the server did not end in time, or never started."""

    kind = "session_stuck"
    timed_out = True


class WentDown(CutShort):
    """The Mac shut down or lost power during its session."""


class MacWaits(MacObserver):
    """Watches the Macs of one shard. Time limits do not count the ``stalls`` of the event loop."""

    def __init__(self, reactor: Reactor, stalls: Stalls) -> None:
        self._reactor = reactor
        self.stalls = stalls
        self._limits: set[TimeLimit] = set()
        self._results: dict[str, Deferred[CurrentCommand | ResultRefused]] = {}
        self._sessions: dict[int, list[Deferred[PeerError | None]]] = {}
        self._told: list[tuple[Deferred[Any], Any]] = []

    async def result(self, command_uuid: str, seconds: float) -> CurrentCommand:
        """Wait until the server has accepted the final result of a command, one other than NotNow.

        Raises ResultRefused if the server refuses it for the last time, ResultMissing after ``seconds``.
        """
        arrived: Deferred[CurrentCommand | ResultRefused] = Deferred()
        self._results[command_uuid] = arrived
        try:
            outcome = await within(arrived, seconds, self._reactor, self.stalls)
        except OutOfTime:
            told = [each for waiting, each in self._told if waiting is arrived]  # it came in this very turn
            if not told:
                raise ResultMissing(f"the server took no result of the command within {seconds:g} s") from None
            outcome = told[0]
        finally:
            self._results.pop(command_uuid, None)
        if isinstance(outcome, ResultRefused):
            raise outcome
        return outcome

    def next_session(self, index: int) -> Deferred[PeerError | None]:
        """The end of Mac ``index``'s next session, for ``session_end``."""
        ended: Deferred[PeerError | None] = Deferred()
        self._sessions.setdefault(index, []).append(ended)
        return ended

    async def session_end(
        self, index: int, seconds: float, ended: Deferred[PeerError | None] | None = None
    ) -> PeerError | None:
        """The failure of Mac ``index``'s next session, None if it succeeds. Raises SessionStuck.

        It may be ``ended``, of ``next_session``, so that it counts as the next one although it has begun already.
        """
        ended = ended or self.next_session(index)
        waiting = self._sessions.get(index, [])
        try:
            return await within(ended, seconds, self._reactor, self.stalls)
        except OutOfTime:
            for each, failure in self._told:
                if each is ended:
                    return failure  # type: ignore[no-any-return]
            raise SessionStuck(f"no session of the Mac ended within {seconds:g} s") from None
        finally:
            if ended in waiting:
                waiting.remove(ended)
            if not waiting and self._sessions.get(index) is waiting:
                del self._sessions[index]

    def overdue(self, client: MDMClient, seconds: float) -> None:
        """The time limit of a phase for Mac ``client`` is over: its open session has failed.

        A session that has been open for less than ``seconds`` gets the rest of them: an earlier delay is not its own.
        """
        session = client.open_session
        if session is None:
            return
        stuck = SessionStuck(f"the session did not end within {seconds:g} s")
        left = session.since.ticks + seconds - self._reactor.seconds()
        if left <= _ROUNDING:
            session.end(stuck)
            return

        def over() -> None:
            self._limits.discard(limit)
            session.end(stuck)

        limit = TimeLimit(self._reactor, self.stalls, left, over)
        self._limits.add(limit)

    def close(self) -> None:
        """Cancel every time limit."""
        for limit in self._limits:
            limit.cancel()
        self._limits.clear()

    # Called by the Macs.

    def taken(self, _mac: ObservedMac, command: CurrentCommand) -> None:
        """The server accepted a result."""
        if command.status is not Status.NOT_NOW:
            self._tell_result(command, command)

    def refused(self, _mac: ObservedMac, command: CurrentCommand, failure: ResultRefused) -> None:
        """The server refused a result for the last time. After a refused NotNow the server still has the command."""
        if command.status is not Status.NOT_NOW:
            self._tell_result(command, failure)

    def session_ended(self, mac: ObservedMac, failure: PeerError | None) -> None:
        """A session came to its end."""
        for ended in self._sessions.pop(mac.index, ()):
            self._tell(ended, failure)

    def went_down(self, mac: ObservedMac) -> None:
        """The Mac does not run any more."""
        for ended in self._sessions.pop(mac.index, ()):
            self._tell(ended, WentDown("the Mac went down before its session ended"))

    def _tell_result(self, command: CurrentCommand, outcome: CurrentCommand | ResultRefused) -> None:
        arrived = self._results.pop(command.command.uuid, None)
        if arrived is not None:
            self._tell(arrived, outcome)

    def _tell(self, waiting: Deferred[Any], outcome: object) -> None:
        if not self._told:
            self._reactor.callLater(0, self._flush)
        self._told.append((waiting, outcome))

    def _flush(self) -> None:
        told, self._told = self._told, []
        for waiting, outcome in told:
            if not waiting.called:
                waiting.callback(outcome)
