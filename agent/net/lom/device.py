"""The Device's end of a LOM link over TLS: receives requests, sends the Mac's answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from agent.errors import MisuseError, PeerError
from agent.lom.endpoint import Endpoint, device_side
from agent.lom.gate import Gate, TooManyLinks, TooManyRequests
from agent.lom.link import (
    Acknowledgement,
    DeviceLink,
    LinkAnswer,
    LinkError,
    LinkLimits,
    LinkRequest,
    NotAcknowledged,
    RequestDelayed,
    RequestDropped,
    VersionUnsupported,
)
from agent.lom.relay import Unreachable
from agent.net.timing import Alarm, Reactor
from agent.net.transport.stream import TLSStream


class DeviceEnd:
    """The owner of the stream. ``endpoint`` is set by the end of the handshake; ``ended`` is called at the link's end.

    ``gate`` is shared by all links of a network; ``address`` is the peer's.
    """

    def __init__(
        self,
        reactor: Reactor,
        limits: LinkLimits,
        endpoint: Endpoint | None,
        ended: Callable[[DeviceEnd], object],
        *,
        gate: Gate | None = None,
        address: str = "",
    ) -> None:
        self.endpoint = endpoint
        self._gate = Gate(limits) if gate is None else gate
        self._address = address
        self._counted_as: Hashable = None  # the key of this link in the gate
        self._reactor = reactor
        self._limits = limits
        self._ended = ended
        self._link = DeviceLink(limits)
        self._leaving = False
        self._stream: TLSStream | None = None
        self._closing = Alarm(reactor, self._out_of_time)
        self._ends_at = 0.0
        self._delayed: RequestDelayed | None = None  # the request whose answer waits
        self._answering = Alarm(reactor, self._answer_delayed)

    def begin(self, stream: TLSStream) -> None:
        """Start the handshake, unless the peer has too many links."""
        self._stream = stream
        self._ends_at = self._reactor.seconds() + self._limits.link_seconds
        if self._take_place(("address", self._address)):
            self._close_in(self._limits.request_seconds)
            stream.accept()

    def secured(self) -> None:
        """The Controller is verified: accept its requests, unless it has too many links."""
        if self._stream is not None:
            self._take_place(("Controller", self._stream.peer_name))

    def received(self, octets: bytes) -> None:
        """Answer each request; after a protocol error answer no more."""
        if self._leaving:
            return
        self._link.receive(octets)
        self._answer_all()

    def _answer_all(self) -> None:
        try:
            while self._stream is not None and self._delayed is None and self._answer_next(self._stream):
                pass
        except RequestDropped as error:
            self.wronged(error)
            stream = self._stream
            self._end()
            if stream is not None:
                stream.abort()
        except (LinkError, Unreachable) as error:  # fail closed; the Controller reports the failed request
            self.wronged(error)
            self._leave()

    def wronged(self, error: PeerError) -> None:
        """A protocol error or a removed payload. Nothing is sent; subclasses may report it."""

    def declined(self, answer: LinkAnswer) -> None:
        """A request in a version that the Device does not speak is answered; subclasses may report it."""

    def lost(self, _error: PeerError) -> None:
        """The link ended, or the handshake failed."""
        self._end()

    def close(self) -> None:
        """Close the link."""
        stream = self._stream
        self._end()
        if stream is not None:
            stream.close()

    def _out_of_time(self) -> None:
        if self._link.unacknowledged and not self._leaving:
            self.wronged(NotAcknowledged("no acknowledgement came: the answer is repeated on the next link"))
        self.close()

    def _answer_next(self, stream: TLSStream) -> bool:
        """Take the next message; returns whether there may be another one."""
        try:
            message = self._link.next_message()
        except VersionUnsupported as error:
            self._count_request(error.answer.uuid, stream)
            self.declined(error.answer)
            return self._answer(error.answer, stream)
        if message is None:
            if self._link.finished:
                self._leave()
            return False
        if self.endpoint is None:
            raise MisuseError("a request on a link without a Device")
        if isinstance(message, Acknowledgement):
            self.endpoint.lom_answer_arrived(message.uuid, stream.peer_name, acknowledged=True)
            self._wait_for_message()
            return True
        return self._carry_out(message, self.endpoint, stream)

    def _carry_out(self, request: LinkRequest, endpoint: Endpoint, stream: TLSStream) -> bool:
        device_side(endpoint)  # the payload may have been removed since the handshake
        self._count_request(request.uuid, stream)
        if request.acknowledges:
            unacknowledged = endpoint.unacknowledged_lom_answers(stream.peer_name)
            repeated = self._link.repeat(each for each in unacknowledged if each.uuid != request.uuid)
            if repeated:
                stream.write(repeated)
        try:
            answer = endpoint.receive_lom_request(request, stream.peer_name)
        except RequestDelayed as delayed:
            self._delayed = delayed
            self._answering.set(delayed.seconds)
            self._close_in(delayed.seconds + self._limits.request_seconds)
            return False
        return self._answer(answer, stream)

    def _count_request(self, uuid: str, stream: TLSStream) -> None:
        """Raises TooManyRequests, which ends the link; that is answered first."""
        try:
            self._gate.count_request(self._counted_as, self._reactor.seconds())
        except TooManyRequests as error:
            stream.write(self._link.answer(LinkAnswer(uuid, str(error))))
            raise

    def _answer_delayed(self) -> None:
        stream = self._stream
        delayed, self._delayed = self._delayed, None
        if delayed is None or stream is None:
            return
        if self._answer(delayed.carry_out(), stream):
            self._answer_all()

    def _answer(self, answer: LinkAnswer, stream: TLSStream) -> bool:
        """Send an answer; returns whether the link is still there."""
        if self._stream is None:  # the request closed this link
            return False
        octets = self._link.answer(answer)
        self._wait_for_message()
        stream.write(octets)
        return True

    def _wait_for_message(self) -> None:
        """Limit the time to the next acknowledgement, or else to the next request."""
        limits = self._limits
        self._close_in(limits.acknowledgement_seconds if self._link.unacknowledged else limits.request_seconds)

    def _leave(self) -> None:
        """Answer no more; close the link after the time for sent answers to arrive."""
        self._leaving = True
        self._close_in(self._limits.linger_seconds)

    def _close_in(self, seconds: float) -> None:
        """Limit the time to the next request. It starts with the last answer, so that single bytes do not extend it."""
        self._closing.set(min(seconds, self._ends_at - self._reactor.seconds()))

    def _take_place(self, who: tuple[str, str]) -> bool:
        """Count this link for ``who`` at this Device; close it if there are too many."""
        self._release_place()
        peer = (*who, None if self.endpoint is None else self.endpoint.index)
        try:
            self._gate.open(peer)
        except TooManyLinks as error:
            self.wronged(error)
            self.close()
            return False
        self._counted_as = peer
        return True

    def _release_place(self) -> None:
        if self._counted_as is not None:
            self._gate.close(self._counted_as)
        self._counted_as = None

    def _end(self) -> None:
        if self.endpoint is not None and self._stream is not None:
            for uuid in self._link.unacknowledged:
                self.endpoint.lom_answer_arrived(uuid, self._stream.peer_name, acknowledged=False)
        self._closing.cancel()
        self._answering.cancel()
        self._release_place()
        self._stream = None
        self._ended(self)
