"""A shard's end of the control link: it joins the run, answers questions about its clock, and delivers its results."""

from __future__ import annotations

import time
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from agent.errors import OperatorError, PeerError
from agent.load.control.admission import Refusal
from agent.load.control.joining import Invitation
from agent.load.control.link import ControlLink, connect
from agent.load.control.messages import (
    Alive,
    ClockAnswer,
    ClockQuestion,
    ControlError,
    Message,
    Plan,
    Refused,
    Taken,
)

ALIVE_SECONDS = 1.0
JOIN_SECONDS = 30.0  # in which the conductor answers a Hello; a join secret may be announced after the Hello


class Owner(Protocol):
    """The shard, which is told what the link does not handle itself."""

    def message_received(self, message: Message, /) -> None:
        """The conductor sent a message that is not about the link itself."""

    def link_lost(self, error: PeerError, /) -> None:
        """The link broke, or the conductor is silent."""


class ShardLink:
    """The link of one shard, from ``join`` to ``close``."""

    def __init__(self, reactor: Any, invitation: Invitation, owner: Owner) -> None:
        # Seconds for which the conductor may send nothing. They are counted by this process's own timer, so that a
        # process that was stopped does not take the conductor for silent.
        self.patience = JOIN_SECONDS
        self._reactor = reactor
        self._invitation = invitation
        self._owner = owner
        self._link: ControlLink | None = None
        self._plan: Deferred[bytes] | None = None
        self._taken: Deferred[None] | None = None
        self._unheard = 0
        self._alive = LoopingCall(self._look)
        self._alive.clock = reactor

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._link is not None

    def join(self) -> Deferred[bytes]:
        """Join the run; fires with the encoded plan, or fails with Refusal or PeerError. Raises OperatorError."""
        plan: Deferred[bytes] = Deferred(lambda _: None)
        self._plan = plan
        try:
            self._link = connect(self._reactor, self._invitation, self)
        except PeerError as error:
            raise OperatorError(f"{error}. {_ADVICE}") from error
        self._alive.start(ALIVE_SECONDS, now=False)
        return plan

    def send(self, message: Message) -> None:
        """Send a message; do nothing if the link is lost."""
        if self._link is not None:
            self._link.send(message)

    async def deliver(self, message: Message) -> None:
        """Send a message and return when the conductor has taken it. Raises PeerError if the link is lost before."""
        if self._link is None:
            raise ControlError("the control link was lost before the results were delivered")
        taken: Deferred[None] = Deferred()
        self._taken = taken
        self._link.send(message)
        await taken

    def close(self) -> None:
        """Close the link; the owner is not told."""
        if self._alive.running:
            self._alive.stop()
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _look(self) -> None:
        self._unheard += 1
        if self._unheard * ALIVE_SECONDS >= self.patience:
            self._lose(ControlError(f"the conductor sent nothing for {self.patience:g} s"))
        else:
            self.send(Alive())

    def _lose(self, error: PeerError) -> None:
        self.close()
        plan, self._plan = self._plan, None
        taken, self._taken = self._taken, None
        if plan is not None and not plan.called:
            plan.errback(error)
        if taken is not None:
            taken.errback(error)
        self._owner.link_lost(error)

    # Called by the control link.

    def message_received(self, _link: ControlLink, message: Message) -> None:
        """The conductor sent a message."""
        self._unheard = 0
        match message:
            case ClockQuestion(sent):
                self.send(ClockAnswer(sent, self._reactor.seconds(), time.time()))
            case Alive():
                pass
            case Plan(octets):
                self._answered(octets)
            case Refused(reason):
                self._answered(Refusal(reason))
            case Taken():
                taken, self._taken = self._taken, None
                if taken is not None:
                    taken.callback(None)
            case _:
                self._owner.message_received(message)

    def _answered(self, answer: bytes | Refusal) -> None:
        plan, self._plan = self._plan, None
        if plan is None or plan.called:
            return
        if isinstance(answer, Refusal):
            plan.errback(answer)
        else:
            plan.callback(answer)

    def link_lost(self, _link: ControlLink, error: PeerError) -> None:
        """The link broke, or could not be opened."""
        self._link = None
        self._lose(error)


_ADVICE = "Look whether the run's conductor listens there (--listen), and whether a firewall is in between."
