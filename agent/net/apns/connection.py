"""One provider's HTTP/2 connection to the APNs gateway: it reads requests, has them decided on, and sends the answers.

The provider is untrusted: time, memory and work are bounded by GatewayLimits.
Source: RFC 9113; Apple, "Sending notification requests to APNs".
"""

from __future__ import annotations

import json
from functools import partial
from typing import Protocol

import msgspec
from OpenSSL import SSL

from agent.errors import PeerError
from agent.net.apns.bodies import WaitingBodies
from agent.net.http.http2_frames import ErrorCode, HTTP2Malformed
from agent.net.http.http2_server import HTTP2Server
from agent.net.timing import Alarm, Reactor
from agent.net.transport.stream import State, TLSStream
from agent.push.broker import Answer, Broken, PushOutcome, Reply
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import MAX_PAYLOAD_BYTES, Provider, apns_id_of

ALPN = b"h2"
MAX_CONCURRENT_STREAMS = 1000  # observed: in the SETTINGS of the real APNs, after a client certificate
MAX_HEADER_LIST_BYTES = 8000  # observed: likewise

_MAX_SURPLUS_BYTES = 1024 * 1024  # ours: read and dropped of a body that is too long, before its stream is reset


class GatewayLimits(msgspec.Struct, frozen=True):
    """Limits of one connection, and of their number. Times in seconds."""

    request: float = 30.0
    """From the headers of a request to its end; also for reading an answer."""
    idle: float = 3600.0
    """Without a request, on a connection with a valid client certificate."""
    newcomer_idle: float = 10.0
    """The same for a connection without one."""
    look: float = 5.0
    """How often the limits above are checked."""
    linger: float = 1.0
    """For the provider to read a GOAWAY before the connection is closed."""
    unsent: int = 256 * 1024
    """Bytes of answers that the provider has not read; more end the connection."""
    resets: int = 1000
    """Streams that the provider resets; more end the connection."""
    settings: int = 100
    """SETTINGS frames, each of which makes us visit all streams; more end the connection."""
    frames: int = 20_000
    """Frames, or parts of one, since the last complete request; more end the connection. Each costs time."""
    providers: int = 1000
    """Connections with a valid client certificate."""
    newcomers: int = 250
    """Connections in their handshake or without a valid certificate; as many more may be shutting down."""


class Router(Protocol):
    """Has the requests decided on: ``agent.net.apns.router.PushRouter``."""

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Decide on a complete request. ``reply`` is called once with the outcome, now or later."""

    def refuse(self, fields: list[tuple[str, str]], refused: PushRefused) -> Answer:
        """The answer to a request that the gateway refuses itself; it is counted."""

    def turned_away(self) -> None:
        """The gateway closed a connection because there were too many."""


class _Incoming(msgspec.Struct):
    """A request that is not complete yet."""

    fields: list[tuple[str, str]]
    since: float
    """When its headers came, on the reactor's clock."""
    body: bytearray = msgspec.field(default_factory=bytearray)


class ConnectionOwner(Protocol):
    """The gateway, as a connection uses it."""

    def identify(self, tls: SSL.Connection) -> Provider:
        """The provider, by its client certificate."""

    def identified(self, connection: ProviderConnection) -> None:
        """The handshake is done; the owner may shut the connection down."""

    def ended(self, connection: ProviderConnection) -> None:
        """The connection has ended. Called once."""


class ProviderConnection:
    """Owns the TLS stream of one connection; the gateway owns the connection."""

    def __init__(self, reactor: Reactor, router: Router, limits: GatewayLimits, owner: ConnectionOwner) -> None:
        self._reactor = reactor
        self._router = router
        self._limits = limits
        self._owner = owner
        self._stream: TLSStream | None = None
        self._tls: SSL.Connection | None = None
        self._h2 = HTTP2Server(self, MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_BYTES)
        self._provider = Provider()
        self._incoming: dict[int, _Incoming] = {}
        self._outstanding: set[int] = set()  # streams whose request the router has not answered
        self._bodies = WaitingBodies(self._h2)
        self._surplus: dict[int, int] = {}  # bytes read of bodies that are too long, by stream
        self._last_processed = 0  # the last stream that was processed, for GOAWAY
        self._resets = self._settings = self._frames = 0
        self._reading = False
        self._draining: Reason | None = None  # why it shuts down once the outstanding requests are answered
        self._leaving = False
        self._look_alarm = Alarm(reactor, self._look)
        self._linger_alarm = Alarm(reactor, self._close)
        self._flush_alarm = Alarm(reactor, self._answer)
        self._idle_since = self._stuck_since = 0.0

    @property
    def certified(self) -> bool:
        """Whether the provider has a valid certificate; False during the handshake."""
        return self._provider.certified and not self._provider.fault

    @property
    def idle_since(self) -> float | None:
        """When its last answer was sent or its handshake ended (reactor's clock); None while a request is pending."""
        return None if self._incoming or self._outstanding else self._idle_since

    def begin(self, stream: TLSStream, tls: SSL.Connection) -> None:
        """Start the TLS handshake."""
        self._stream, self._tls = stream, tls
        stream.accept()

    def shut_down(self, reason: Reason = Reason.SHUTDOWN) -> None:
        """Answer incomplete requests with 503, and close after the outstanding ones are answered."""
        stream = self._stream
        if stream is None or stream.state is not State.OPEN or self._leaving:
            self._close()
            return
        self._draining = reason
        for stream_id in list(self._incoming):
            self._refuse(stream_id, Reason.SHUTDOWN)
        self._answer()

    def abort(self) -> None:
        """Reset the connection without GOAWAY."""
        stream = self._stream
        self._end()
        if stream is not None:
            stream.abort()

    # What the stream calls.

    def secured(self) -> None:
        """The handshake is done. Without ALPN h2 the connection is closed (RFC 9113, 3.2)."""
        if self._tls is None or self._tls.get_alpn_proto_negotiated() != ALPN:
            self._close()
            return
        self._provider = self._owner.identify(self._tls)
        self._h2.start()
        self._idle_since = self._reactor.seconds()
        self._look_alarm.set(self._limits.look)
        self._flush()
        self._owner.identified(self)

    def received(self, octets: bytes) -> None:
        """Process bytes. A provider that violates HTTP/2 gets a GOAWAY with the error, and the connection is closed."""
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
        """The provider closed the connection, or the handshake failed."""
        self._end()

    # HTTP/2.

    def _read(self, octets: bytes) -> bool:
        """Process frame after frame; returns whether the connection stays open."""
        try:
            self._h2.receive(octets)
        except HTTP2Malformed as error:
            self._give_up(error.code)
        return not self._leaving

    def _give_up(self, error: ErrorCode) -> None:
        """End the connection with a GOAWAY of this error."""
        self._h2.close(error, self._last_processed)
        self._leaving = True

    # What the HTTP/2 connection calls.

    def frame_came(self) -> bool:
        """Count a frame; whether the connection goes on."""
        self._frames += 1
        if self._frames > self._limits.frames and not self._leaving:  # CVE-2019-9512 and others
            self._give_up(ErrorCode.ENHANCE_YOUR_CALM)
        return not self._leaving and self._stream is not None

    def requested(self, stream_id: int, fields: list[tuple[bytes, bytes]]) -> None:
        """A request begins."""
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        self._incoming[stream_id] = _Incoming(texts, self._reactor.seconds())

    def body_came(self, stream_id: int, octets: bytes) -> None:
        """Part of a body. One that is too long is answered at once, and up to _MAX_SURPLUS_BYTES of it are dropped."""
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
                self._h2.reset_stream(stream_id, ErrorCode.NO_ERROR)  # RFC 9113, 8.1

    def request_ended(self, stream_id: int) -> None:
        """A request is complete."""
        self._surplus.pop(stream_id, None)
        if stream_id in self._incoming:
            self._route(stream_id)

    def stream_reset(self, stream_id: int) -> None:
        """A request needs no answer any more."""
        self._incoming.pop(stream_id, None)
        self._outstanding.discard(stream_id)
        self._bodies.drop(stream_id)
        self._surplus.pop(stream_id, None)
        self._resets += 1
        if self._resets > self._limits.resets:  # CVE-2023-44487
            self._give_up(ErrorCode.ENHANCE_YOUR_CALM)

    def window_opened(self, stream_id: int) -> None:
        """The provider takes more."""
        self._bodies.window_updated(stream_id)

    def settings_came(self, *, wider: bool) -> None:
        """The provider's SETTINGS."""
        self._settings += 1
        if self._settings > self._limits.settings:  # CVE-2019-9515
            self._give_up(ErrorCode.ENHANCE_YOUR_CALM)
        elif wider:
            self._bodies.windows_grew()

    def client_leaves(self) -> None:
        """The provider's GOAWAY: nothing is sent after it, not even outstanding answers."""
        self._leaving = True

    def _refuse(self, stream_id: int, reason: Reason) -> None:
        """Answer an incomplete request."""
        incoming = self._incoming.pop(stream_id)
        own = OwnCause.SHUTDOWN if reason is Reason.SHUTDOWN else None
        refused = PushRefused(reason, apns_id=apns_id_of(incoming.fields), own=own)
        self._respond(stream_id, self._router.refuse(incoming.fields, refused))

    def _route(self, stream_id: int) -> None:
        """Have a complete request decided on. The answer is dropped if the stream or the connection ends before."""
        if self._draining is not None:
            self._refuse(stream_id, Reason.SHUTDOWN)
            return
        incoming = self._incoming.pop(stream_id)
        self._frames = 0
        self._last_processed = max(self._last_processed, stream_id)
        self._outstanding.add(stream_id)
        self._router.route(incoming.fields, bytes(incoming.body), self._provider, partial(self._decided, stream_id))

    def _decided(self, stream_id: int, outcome: PushOutcome) -> None:
        """The router's outcome for a request."""
        if stream_id not in self._outstanding or self._leaving:
            return  # the provider reset the stream or closed the connection
        self._outstanding.discard(stream_id)
        if isinstance(outcome, Broken):
            self.abort()
            return
        self._respond(stream_id, outcome)
        if not self._reading and not self._flush_alarm.is_set:
            # Answers come from another process in groups: one write for all.
            self._flush_alarm.set(0.0)

    def _answer(self) -> None:
        """Send the answers. In a shutdown the last one is followed by GOAWAY with the last stream."""
        self._flush_alarm.cancel()
        if self._draining is None or self._outstanding:
            self._flush()
            return
        document = json.dumps({"reason": self._draining.word}).encode()
        self._h2.close(ErrorCode.NO_ERROR, self._last_processed, document)
        self._leave()

    def _respond(self, stream_id: int, answer: Answer) -> None:
        self._last_processed = max(self._last_processed, stream_id)
        self._idle_since = self._reactor.seconds()
        headers = [(b":status", b"%d" % answer.status), (b"apns-id", answer.apns_id.encode("ascii"))]
        if answer.body:
            headers.append((b"content-type", b"application/json"))
        self._h2.send_headers(stream_id, headers, end_stream=not answer.body)
        if answer.body:
            self._bodies.send(stream_id, answer.body)

    # Ends.

    def _leave(self) -> None:
        """Send what is left, and close after ``linger`` seconds.

        Closing a socket with unread bytes at once would reset it, and the GOAWAY would be lost.
        """
        self._leaving = True
        self._flush()
        self._disarm()
        if self._stream is not None:
            self._linger_alarm.set(self._limits.linger)

    def _flush(self) -> None:
        stream = self._stream
        if stream is None or stream.state is not State.OPEN:
            return
        octets = self._h2.take()
        if octets:
            stream.write(octets)
        if stream.unsent_bytes > self._limits.unsent:
            self.abort()

    def _look(self) -> None:
        """Check the time limits, every ``look`` seconds."""
        now, limits = self._reactor.seconds(), self._limits
        self._look_alarm.set(limits.look)
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
        for alarm in (self._look_alarm, self._linger_alarm, self._flush_alarm):
            alarm.cancel()
