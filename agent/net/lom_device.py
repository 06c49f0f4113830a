"""A Device's end of one LOM link over TLS: bytes of requests in, what the Mac answers out."""

from __future__ import annotations

from collections.abc import Callable

from agent.errors import MisuseError, PeerError
from agent.lom.link import DeviceLink, LinkError, LinkLimits
from agent.lom.network import Endpoint, device_side
from agent.lom.relay import Unreachable
from agent.net.reactor import DelayedCall, Reactor
from agent.net.stream import TLSStream


class DeviceEnd:
    """The owner of the stream. ``endpoint`` is known at the latest after the handshake; ``ended`` hears of its end."""

    def __init__(
        self, reactor: Reactor, limits: LinkLimits, endpoint: Endpoint | None, ended: Callable[[DeviceEnd], object]
    ) -> None:
        self.endpoint = endpoint
        self._reactor = reactor
        self._limits = limits
        self._ended = ended
        self._link = DeviceLink(limits)
        self._leaving = False
        self._stream: TLSStream | None = None
        self._timer: DelayedCall | None = None

    def begin(self, stream: TLSStream) -> None:
        """Shake hands."""
        self._stream = stream
        self._close_in(self._limits.request_seconds)
        stream.accept()

    def secured(self) -> None:
        """The Controller is known; it is its turn."""

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
        self._disarm()
        self._timer = self._reactor.callLater(seconds, self.close)

    def _end(self) -> None:
        self._disarm()
        self._stream = None
        self._ended(self)

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
