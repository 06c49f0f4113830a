"""A provider, as in an MDM server: it pushes over one HTTP/2 connection to APNs, with the push certificate.

A push that is answered with 429, 500 or 503, or whose connection breaks, is retried; after a GOAWAY a new connection is
opened.

::

    push --> waiting --> on a stream --> answered
                ^             |
                +-------------+  broken, GOAWAY, 429, 5xx (after a while)
"""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from cryptography import x509
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from twisted.internet.defer import Deferred, fail

from agent.errors import PeerError
from agent.net.apns.connection import ALPN
from agent.net.timing import DelayedCall, Reactor
from agent.net.transport.errors import ConnectionBroken
from agent.net.transport.stream import DEFAULT_TIMEOUTS, SocketAddress, State, Timeouts, TLSStream, start_connect
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.verify import PeerCheck, server_judge
from agent.push.requests import new_apns_id

SERVER_NAME = "api.push.apple.com"
RETRY_FIRST_SECONDS = 0.5  # ours; doubled for each further retry; Apple: "back off"
RETRY_LONGEST_SECONDS = 30.0
TRIES = 8
MAX_WAITING = 100_000  # ours: pushes that are not sent yet
BROKEN = 0  # in place of a status: the connection broke before the answer
_STREAMS_AT_FIRST = 100  # RFC 9113, 6.5.2: the recommended minimum; used until SETTINGS state a limit
_MAX_STREAMS = 1000

Argument = TypeVar("Argument")


class PushFailed(PeerError):
    """APNs did not accept a push. ``status`` and ``reason`` are those of its answer; 0 and "" without one."""

    kind = "push_failed"

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class _Push(msgspec.Struct, eq=False):
    """A push without an answer. ``apns_id`` stays the same in every retry."""

    token: bytes
    body: bytes
    headers: Mapping[str, str]
    apns_id: str
    done: Deferred[str] = msgspec.field(default_factory=Deferred)
    tries: int = 0
    status: int = 0
    answer: bytes = b""


class APNsProvider:
    """Pushes to the APNs at ``address`` (an IP address and a port), whose certificate must be for ``server_name``.

    A push is repeated after the statuses in ``temporary``; BROKEN among them stands for a connection that broke.
    """

    def __init__(
        self,
        reactor: Reactor,
        contexts: TLSContexts,
        address: tuple[str, int],
        anchors: Sequence[x509.Certificate],
        identity: Identity,
        *,
        server_name: str = SERVER_NAME,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        retry_first: float = RETRY_FIRST_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._contexts = contexts
        self._address = address
        self._anchors = tuple(anchors)
        self._identity = identity
        self._server_name = server_name
        self._timeouts = timeouts
        self._retry_first = retry_first
        self.temporary = frozenset({429, 500, 503, BROKEN})
        self._waiting: deque[_Push] = deque()
        self._active: dict[int, _Push] = {}
        self._timers: set[DelayedCall] = set()
        self._stream: TLSStream | None = None
        self._h2 = H2Connection()
        self._ready = self._draining = self._closed = False
        self._heard = 0.0

    def push(self, token: bytes, push_magic: str, topic: str) -> Deferred[str]:
        """Push to a Mac. Fires with the apns-id when APNs has accepted the push; fails with PushFailed."""
        headers = {"apns-topic": topic, "apns-push-type": "mdm", "apns-id": new_apns_id()}
        return self.send(token, json.dumps({"mdm": push_magic}).encode(), headers)

    def send(self, token: bytes, body: bytes, headers: Mapping[str, str]) -> Deferred[str]:
        """Send a push of any form: ``headers`` are those that begin with ``apns-``. As ``push``."""
        if len(self._waiting) >= MAX_WAITING:
            return fail(PushFailed(f"expected fewer than {MAX_WAITING} pushes that wait for APNs, found as many"))
        push = _Push(token, body, headers, headers.get("apns-id", ""))
        self._waiting.append(push)
        self._pump()
        return push.done

    def close(self) -> None:
        """Close the connection; pushes without an answer are dropped."""
        self._closed = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        self._active.clear()
        stream, self._stream = self._stream, None
        if stream is not None:
            if self._ready:
                self._h2.close_connection()
                stream.write(self._h2.data_to_send())
            stream.close()

    # What the stream calls.

    def secured(self) -> None:
        """The handshake is done and APNs' certificate is verified."""
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._h2.initiate_connection()
        self._ready, self._draining = True, False
        self._heard = self._reactor.seconds()
        self._later(self._timeouts.answer, self._watch, self._stream)
        self._pump()

    def received(self, octets: bytes) -> None:
        """Process bytes of frames."""
        self._heard = self._reactor.seconds()
        try:
            for event in self._h2.receive_data(octets):
                self._happened(event)
        except H2Error as error:
            self._hang_up(ConnectionBroken(f"APNs violated HTTP/2: {error}"))
            return
        if self._draining and not self._active:
            self._hang_up(ConnectionBroken("APNs is going away"))
        self._pump()

    def lost(self, error: PeerError) -> None:
        """The connection ended or could not be opened: retry the pushes without an answer."""
        self._stream = None
        self._ready = False
        active, self._active = list(self._active.values()), {}
        for push in active:
            self._again(push, f"the connection to APNs broke before the answer: {error}")
        if active and self._waiting:
            self._later(self._retry_first, self._put_back, None)
        elif self._waiting:
            # No push was sent: reconnect after a delay, which counts as a try of each push.
            waiting, self._waiting = list(self._waiting), deque()
            for push in waiting:
                self._again(push, f"APNs cannot be reached: {error}")

    # HTTP/2.

    def _happened(self, event: Event) -> None:
        match event:
            case ResponseReceived(stream_id=int(stream_id), headers=headers) if stream_id in self._active:
                # h2 accepts only three digits
                self._active[stream_id].status = next(int(value) for name, value in headers if name == b":status")
            case DataReceived(stream_id=int(stream_id), data=data, flow_controlled_length=int(length)):
                self._h2.acknowledge_received_data(length, stream_id)
                if stream_id in self._active:
                    self._active[stream_id].answer = (self._active[stream_id].answer + (data or b""))[:4096]
            case StreamEnded(stream_id=int(stream_id)) if stream_id in self._active:
                self._answered(self._active.pop(stream_id))
            case StreamReset(stream_id=int(stream_id)) if stream_id in self._active:
                self._again(self._active.pop(stream_id), "APNs reset the push's stream")
            case ConnectionTerminated(last_stream_id=last_stream_id):
                self._draining = True
                # RFC 9113, 6.8: streams above the last one were not processed, so they are retried at once
                for stream_id in [each for each in self._active if each > (last_stream_id or 0)]:
                    self._waiting.appendleft(self._active.pop(stream_id))
            case RemoteSettingsChanged():
                self._pump()

    def _answered(self, push: _Push) -> None:
        if push.status == 200:
            push.done.callback(push.apns_id)
            return
        reason = _reason(push.answer)
        text = f"APNs refused the push: {push.status} {reason}"
        self._again(push, text, push.status, reason)

    def _again(self, push: _Push, text: str, status: int = BROKEN, reason: str = "") -> None:
        if status not in self.temporary:
            push.done.errback(PushFailed(text, status, reason))
            return
        push.tries += 1
        if push.tries >= TRIES:
            push.done.errback(PushFailed(f"{text} ({TRIES} tries)", status, reason))
            return
        push.status, push.answer = 0, b""
        self._later(min(RETRY_LONGEST_SECONDS, self._retry_first * 2.0 ** (push.tries - 1)), self._put_back, push)

    def _put_back(self, push: _Push | None) -> None:
        """Retry this push, or those that wait to be sent."""
        if push is not None:
            self._waiting.append(push)
        self._pump()

    def _pump(self) -> None:
        """Send as many pushes as streams and flow control allow; connect first where necessary."""
        if self._closed:
            return
        if self._stream is None:
            if self._waiting:
                self._connect()
            return
        if not self._ready:
            return
        stated = self._h2.remote_settings.max_concurrent_streams
        room = _STREAMS_AT_FIRST if stated > _MAX_STREAMS else stated
        while self._waiting and not self._draining and len(self._active) < room:
            window = min(self._h2.outbound_flow_control_window, self._h2.remote_settings.initial_window_size)
            if window < len(self._waiting[0].body):
                break  # until the WINDOW_UPDATE
            push = self._waiting.popleft()
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, self._headers(push))
            self._h2.send_data(stream_id, push.body, end_stream=True)
            self._active[stream_id] = push
        octets = self._h2.data_to_send()
        if octets and self._stream.state is State.OPEN:
            self._stream.write(octets)

    def _headers(self, push: _Push) -> list[tuple[str, str]]:
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self._server_name),
            (":path", f"/3/device/{push.token.hex()}"),
            *push.headers.items(),
        ]

    # The connection.

    def _connect(self) -> None:
        host, port = self._address
        six = ":" in host
        address: SocketAddress = (host, port, 0, 0) if six else (host, port)
        check = PeerCheck(server_judge(self._server_name))
        try:
            sock = start_connect(socket.AF_INET6 if six else socket.AF_INET, address)
            tls = self._contexts.client(sock, self._anchors, self._identity, check, self._server_name)
        except PeerError as error:
            self.lost(error)
            return
        tls.set_alpn_protos([ALPN])
        self._stream = TLSStream(self._reactor, sock, tls, check, self, timeouts=self._timeouts)
        self._stream.connect()

    def _hang_up(self, error: PeerError) -> None:
        stream = self._stream
        if stream is not None:
            stream.close()
        self.lost(error)

    def _watch(self, stream: TLSStream | None) -> None:
        """Close a connection on which nothing was received for ``answer`` seconds while an answer is due."""
        if stream is None or stream is not self._stream:
            return
        silent = self._reactor.seconds() - self._heard
        if self._active and silent >= self._timeouts.answer:
            self._hang_up(ConnectionBroken(f"APNs did not answer within {self._timeouts.answer:g} s"))
        else:
            self._later(self._timeouts.answer, self._watch, stream)

    def _later(self, seconds: float, call: Callable[[Argument], None], argument: Argument) -> None:
        def due() -> None:
            self._timers.discard(timer)
            call(argument)

        timer = self._reactor.callLater(seconds, due)
        self._timers.add(timer)


def _reason(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    reason = document.get("reason") if isinstance(document, dict) else None
    return reason[:80] if isinstance(reason, str) else ""
