"""One provider's connection to the APNs gateway: HTTP/2 frames in, requests out, answers back. Bounded in every way.

Source: RFC 9113; Apple, "Sending notification requests to APNs" for what a connection looks like.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from OpenSSL import SSL

from agent.errors import PeerError
from agent.net.apns.bodies import WaitingBodies
from agent.net.apns.frames import FrameCutter, FrameSizeError
from agent.net.timing import DelayedCall, Reactor
from agent.net.transport.stream import State, TLSStream
from agent.push.broker import Answer, Broken, Outcome, Reply
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import MAX_PAYLOAD_BYTES, Provider, apns_id_of

ALPN = b"h2"
MAX_CONCURRENT_STREAMS = 1000  # obs: what real APNs states in its SETTINGS, once a certificate is shown
MAX_HEADER_LIST_BYTES = 8000  # obs: likewise

_MAX_SURPLUS_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What connections may ask for. Times in seconds.

    ``request`` is for one request from its headers to its end, and for taking an answer; ``idle`` is without any
    request, ``newcomer_idle`` the same for a connection without a good certificate; ``linger`` for reading a GOAWAY;
    ``look`` is how often these are looked at. ``unsent`` bytes of answers that the provider does not read end the
    connection, ``resets`` streams that it gave up and ``settings`` SETTINGS frames too: each of these makes us visit
    all its streams.

    ``providers`` connections with a good certificate are served at a time. ``newcomers`` is for those that shake hands
    or have no good certificate, apart from these; so many more may be on their way out.
    """

    request: float = 30.0
    idle: float = 3600.0
    newcomer_idle: float = 10.0
    look: float = 5.0
    linger: float = 1.0
    unsent: int = 256 * 1024
    resets: int = 1000
    settings: int = 100
    providers: int = 1000
    newcomers: int = 250


class Router(Protocol):
    """Has the requests decided on: ``agent.net.apns.router.PushRouter``."""

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Decide on a complete request. ``reply`` is called once with the outcome, now or later."""

    def refuse(self, refused: PushRefused) -> Answer:
        """The answer to a request that the gateway refuses itself; it is counted."""

    def turned_away(self) -> None:
        """The gateway closed a connection because there were too many."""


@dataclass(slots=True)
class _Incoming:
    """A request that is not whole yet."""

    fields: list[tuple[str, str]]
    since: float
    body: bytearray = field(default_factory=bytearray)


class ConnectionOwner(Protocol):
    """Who accepted a connection."""

    def identify(self, tls: SSL.Connection) -> Provider:
        """Who is at the other end of TLS."""

    def identified(self, connection: ProviderConnection) -> None:
        """The handshake is done and HTTP/2 has begun; the owner may shut the connection down."""

    def ended(self, connection: ProviderConnection) -> None:
        """The connection is gone. Called once."""


class ProviderConnection:
    """The owner of the stream, itself owned by the gateway."""

    def __init__(self, reactor: Reactor, router: Router, limits: GatewayLimits, owner: ConnectionOwner) -> None:
        self._reactor = reactor
        self._router = router
        self._limits = limits
        self._owner = owner
        self._stream: TLSStream | None = None
        self._tls: SSL.Connection | None = None
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._provider = Provider()
        self._cutter = FrameCutter()
        self._incoming: dict[int, _Incoming] = {}
        self._outstanding: set[int] = set()  # streams whose request the router has, and has not answered
        self._bodies = WaitingBodies(self._h2)
        self._surplus: dict[int, int] = {}  # what came of requests that were too long, after their answer
        self._begun = 0  # the last stream on which anything was done
        self._resets = self._settings = 0
        self._reading = False
        self._draining: Reason | None = None  # it is to go away, and waits for what is outstanding
        self._leaving = False
        self._timer: DelayedCall | None = None
        self._flush_timer: DelayedCall | None = None
        self._idle_since = self._stuck_since = 0.0

    @property
    def certified(self) -> bool:
        """Whether it has shown a good certificate; false during the handshake."""
        return self._provider.certified and not self._provider.fault

    @property
    def idle_since(self) -> float | None:
        """When its last answer went out, or HTTP/2 began (reactor's clock); None while a request is under way."""
        return None if self._incoming or self._outstanding else self._idle_since

    def begin(self, stream: TLSStream, tls: SSL.Connection) -> None:
        """Shake hands."""
        self._stream, self._tls = stream, tls
        stream.accept()

    def shut_down(self, reason: Reason = Reason.SHUTDOWN) -> None:
        """Answer what is half there with 503, and hang up when all that the router has is answered, too."""
        stream = self._stream
        if stream is None or stream.state is not State.OPEN or self._leaving:
            self._close()
            return
        self._draining = reason
        for stream_id in list(self._incoming):
            self._refuse(stream_id, Reason.SHUTDOWN)
        self._answer()

    def abort(self) -> None:
        """Break the connection without a word."""
        stream = self._stream
        self._end()
        if stream is not None:
            stream.abort()

    # What the stream calls.

    def secured(self) -> None:
        """The handshake is done. Without ALPN h2 it is no HTTP/2 (RFC 9113, 3.2)."""
        if self._tls is None or self._tls.get_alpn_proto_negotiated() != ALPN:
            self._close()
            return
        self._provider = self._owner.identify(self._tls)
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
            },
        )
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_BYTES
        self._h2.initiate_connection()
        self._idle_since = self._reactor.seconds()
        self._timer = self._reactor.callLater(self._limits.look, self._look)
        self._flush()
        self._owner.identified(self)

    def received(self, octets: bytes) -> None:
        """Bytes of frames. A peer that breaks HTTP/2's rules gets a GOAWAY with the error, and no more."""
        if self._leaving:
            return
        self._reading = True
        try:
            goes_on = self._read(octets)
        finally:
            self._reading = False
        if goes_on:
            self._answer()
        else:
            self._leave()

    def lost(self, _error: PeerError) -> None:
        """The provider hung up, or never shook hands."""
        self._end()

    # HTTP/2.

    def _read(self, octets: bytes) -> bool:
        """The frames in these bytes one after the other; whether the connection goes on after them."""
        try:
            for piece in self._cutter.pieces(octets):
                for event in self._events(piece):
                    self._happened(event)
                if self._leaving or self._stream is None:
                    break
        except FrameSizeError:
            self._give_up(ErrorCodes.FRAME_SIZE_ERROR)
        return not self._leaving

    def _events(self, piece: bytes) -> list[Event]:
        try:
            return self._h2.receive_data(piece)
        except H2Error:  # of the peer's; h2 has written the GOAWAY
            self._leaving = True
            return []

    def _give_up(self, error: ErrorCodes) -> None:
        """The connection ends with a GOAWAY that says so."""
        self._h2.close_connection(error, last_stream_id=self._begun)
        self._leaving = True

    def _happened(self, event: Event) -> None:
        match event:  # what is not here (PING, SETTINGS, PRIORITY, …) h2 has answered by itself
            case RequestReceived(stream_id=int(stream_id), headers=headers):
                fields = [(_text(name), _text(value)) for name, value in headers or ()]
                self._incoming[stream_id] = _Incoming(fields, self._reactor.seconds())
            case DataReceived(stream_id=int(stream_id), data=data, flow_controlled_length=int(length)):
                self._h2.acknowledge_received_data(length, stream_id)
                self._take(stream_id, data or b"")
            case StreamEnded(stream_id=int(stream_id)):
                self._surplus.pop(stream_id, None)
                if stream_id in self._incoming:
                    self._route(stream_id)
            case StreamReset(stream_id=int(stream_id)):
                self._incoming.pop(stream_id, None)
                self._outstanding.discard(stream_id)
                self._bodies.drop(stream_id)
                self._surplus.pop(stream_id, None)
                self._resets += 1
                if self._resets > self._limits.resets:  # CVE-2023-44487
                    self._give_up(ErrorCodes.ENHANCE_YOUR_CALM)
            case WindowUpdated(stream_id=int(stream_id)):
                self._bodies.window_updated(stream_id)
            case RemoteSettingsChanged(changed_settings=changed):
                self._settings += 1
                window = changed.get(SettingCodes.INITIAL_WINDOW_SIZE)
                if self._settings > self._limits.settings:  # CVE-2019-9515
                    self._give_up(ErrorCodes.ENHANCE_YOUR_CALM)
                elif window is not None and window.new_value > (window.original_value or 0):
                    self._bodies.windows_grew()
            case ConnectionTerminated():
                self._leaving = True  # h2 lets nothing through after it, not even the answers that are outstanding

    def _take(self, stream_id: int, octets: bytes) -> None:
        """A part of a request's body. One that is too long is answered at once, and its rest read for a while."""
        incoming = self._incoming.get(stream_id)
        if incoming is not None:
            incoming.body += octets
            if len(incoming.body) > MAX_PAYLOAD_BYTES:
                self._surplus[stream_id] = 0
                self._refuse(stream_id, Reason.PAYLOAD_TOO_LARGE)
        elif stream_id in self._surplus:
            self._surplus[stream_id] += len(octets)
            if self._surplus[stream_id] > _MAX_SURPLUS_BYTES:
                del self._surplus[stream_id]
                self._bodies.drop(stream_id)
                self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)  # RFC 9113, 8.1

    def _refuse(self, stream_id: int, reason: Reason) -> None:
        """Answer a request that is not whole."""
        incoming = self._incoming.pop(stream_id)
        own = OwnCause.SHUTDOWN if reason is Reason.SHUTDOWN else None
        refused = PushRefused(reason, apns_id=apns_id_of(incoming.fields), own=own)
        self._respond(stream_id, self._router.refuse(refused))

    def _route(self, stream_id: int) -> None:
        """Have a whole request decided on. A connection on which nothing waits for it any more loses the answer."""
        if self._draining is not None:
            self._refuse(stream_id, Reason.SHUTDOWN)
            return
        incoming = self._incoming.pop(stream_id)
        self._begun = max(self._begun, stream_id)
        self._outstanding.add(stream_id)
        self._router.route(incoming.fields, bytes(incoming.body), self._provider, partial(self._decided, stream_id))

    def _decided(self, stream_id: int, outcome: Outcome) -> None:
        """The router's word on a request."""
        if stream_id not in self._outstanding or self._leaving:
            return  # the provider gave the stream or the connection up
        self._outstanding.discard(stream_id)
        if isinstance(outcome, Broken):
            self.abort()
            return
        self._respond(stream_id, outcome)
        if not self._reading and self._flush_timer is None:
            # Answers come from another process by the dozen: together they are one write.
            self._flush_timer = self._reactor.callLater(0.0, self._answer)

    def _answer(self) -> None:
        """Send the answers. After the last one of a connection that is to go away: GOAWAY, with the last stream."""
        self._flush_timer = None
        if self._draining is None or self._outstanding:
            self._flush()
            return
        document = json.dumps({"reason": self._draining.word}).encode()
        self._h2.close_connection(ErrorCodes.NO_ERROR, document, last_stream_id=self._begun)
        self._leave()

    def _respond(self, stream_id: int, answer: Answer) -> None:
        self._begun = max(self._begun, stream_id)
        self._idle_since = self._reactor.seconds()
        headers = [(b":status", b"%d" % answer.status), (b"apns-id", answer.apns_id.encode("ascii"))]
        if answer.body:
            headers.append((b"content-type", b"application/json"))
        self._h2.send_headers(stream_id, headers, end_stream=not answer.body)
        if answer.body:
            self._bodies.send(stream_id, answer.body)

    # Ends.

    def _leave(self) -> None:
        """Say what is still to be said, and hang up when the provider has read it, or has had the time to.

        A socket closed at once, with unread bytes in it, would be reset, and the GOAWAY lost.
        """
        self._leaving = True
        self._flush()
        self._disarm()
        if self._stream is not None:
            self._timer = self._reactor.callLater(self._limits.linger, self._close)

    def _flush(self) -> None:
        stream = self._stream
        if stream is None or stream.state is not State.OPEN:
            return
        octets = self._h2.data_to_send()
        if octets:
            stream.write(octets)
        if stream.unsent_bytes > self._limits.unsent:
            self.abort()

    def _look(self) -> None:
        """Now and then: whether the provider keeps its time limits."""
        now, limits = self._reactor.seconds(), self._limits
        self._timer = self._reactor.callLater(limits.look, self._look)
        stuck = bool(self._bodies) or (self._stream is not None and self._stream.unsent)
        self._stuck_since = (self._stuck_since or now) if stuck else 0.0
        since = [self._stuck_since or now, *(incoming.since for incoming in self._incoming.values())]
        if now - min(since) >= limits.request:
            self.abort()
        elif self.idle_since is not None and now - self.idle_since >= (
            limits.idle if self.certified else limits.newcomer_idle
        ):
            self.shut_down(Reason.IDLE_TIMEOUT)

    def _close(self) -> None:
        stream = self._stream
        self._end()
        if stream is not None:
            stream.close()

    def _end(self) -> None:
        self._disarm()
        self._outstanding.clear()
        if self._stream is not None:
            self._stream = None
            self._owner.ended(self)

    def _disarm(self) -> None:
        for timer in (self._timer, self._flush_timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._flush_timer = None


def _text(octets: bytes | str) -> str:
    return octets if isinstance(octets, str) else octets.decode("latin-1")
