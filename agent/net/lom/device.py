"""A Device's end of one LOM link over TLS: bytes of requests in, what the Mac answers out."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from agent.errors import MisuseError, PeerError
from agent.lom.endpoint import Endpoint, device_side
from agent.lom.gate import Gate, TooManyLinks, TooManyRequests
from agent.lom.link import DeviceLink, LinkAnswer, LinkError, LinkLimits
from agent.lom.relay import Unreachable
from agent.net.timing import Alarm, Reactor
from agent.net.transport.stream import TLSStream


class DeviceEnd:
    """The owner of the stream. ``endpoint`` is known at the latest after the handshake; ``ended`` hears of its end.

    ``gate`` is shared by all links of a network; ``address`` is where the peer calls from.
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
        self._counted_as: Hashable = None  # what the gate knows the link under
        self._reactor = reactor
        self._limits = limits
        self._ended = ended
        self._link = DeviceLink(limits)
        self._leaving = False
        self._stream: TLSStream | None = None
        self._closing = Alarm(reactor, self.close)
        self._ends_at = 0.0

    def begin(self, stream: TLSStream) -> None:
        """Shake hands, unless the peer holds too many links already."""
        self._stream = stream
        self._ends_at = self._reactor.seconds() + self._limits.link_seconds
        if self._pass_gate(("address", self._address)):
            self._close_in(self._limits.request_seconds)
            stream.accept()

    def secured(self) -> None:
        """The Controller is known; it is its turn, unless it holds too many links already."""
        if self._stream is not None:
            self._pass_gate(("Controller", self._stream.peer_name))

    def received(self, octets: bytes) -> None:
        """Bytes of requests: each is answered; a peer that breaks the rules is answered no more."""
        if self._leaving:
            return
        self._link.receive(octets)
        try:
            while self._stream is not None and self._answer_next(self._stream):
                pass
        except (LinkError, Unreachable) as error:  # fail closed; the Controller's end says what became of its request
            self.wronged(error)
            self._leave()

    def wronged(self, error: PeerError) -> None:
        """The Controller broke the rules, or the payload is gone. The link says nothing of it; who watches may."""

    def lost(self, _error: PeerError) -> None:
        """The Controller hung up, or was refused in the handshake."""
        self._end()

    def close(self) -> None:
        """Hang up."""
        stream = self._stream
        self._end()
        if stream is not None:
            stream.close()

    def _answer_next(self, stream: TLSStream) -> bool:
        request = self._link.next_request()
        if request is None:
            if self._link.finished:
                self._leave()
            return False
        if self.endpoint is None:
            raise MisuseError("a request on a link without a Device")
        device_side(self.endpoint)  # the payload may be gone since the handshake
        try:
            self._gate.ask(self._counted_as, self._reactor.seconds())
        except TooManyRequests as error:
            stream.write(self._link.answer(LinkAnswer(request.uuid, str(error))))
            raise
        answer = self.endpoint.receive_lom_request(request, stream.peer_name)
        if self._stream is None:  # what was asked closed this very link
            return False
        self._close_in(self._limits.request_seconds)
        stream.write(self._link.answer(answer))
        return True

    def _leave(self) -> None:
        """Answer no more, and hang up when the answers on their way have had time to arrive."""
        self._leaving = True
        self._close_in(self._limits.linger_seconds)

    def _close_in(self, seconds: float) -> None:
        """The Controller's time for one request. It begins with the last answer: a byte now and then is no request."""
        self._closing.set(min(seconds, self._ends_at - self._reactor.seconds()))

    def _pass_gate(self, who: tuple[str, str]) -> bool:
        """Count this link as one of ``who`` at this Device. Where that is one too many, the link ends at once."""
        self._leave_gate()
        peer = (*who, None if self.endpoint is None else self.endpoint.index)
        try:
            self._gate.open(peer)
        except TooManyLinks as error:
            self.wronged(error)
            self.close()
            return False
        self._counted_as = peer
        return True

    def _leave_gate(self) -> None:
        if self._counted_as is not None:
            self._gate.close(self._counted_as)
        self._counted_as = None

    def _end(self) -> None:
        self._closing.cancel()
        self._leave_gate()
        self._stream = None
        self._ended(self)
