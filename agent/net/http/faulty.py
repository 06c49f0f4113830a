"""An HTTP connection on which faults are injected: late, slow and reset requests, and another client certificate.

Only a fleet with fault rules has such connections.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import msgspec
from OpenSSL import SSL

from agent.errors import MisuseError
from agent.faults.effects import At
from agent.net.http.connection import Caller, HTTPConnection
from agent.net.http.http1 import Response
from agent.net.http.request import Request
from agent.net.timing import DelayedCall
from agent.net.transport.errors import ConnectionBroken
from agent.net.transport.stream import State, TLSStream
from agent.net.transport.tls import Check
from agent.pki.identity import Identity

_SLICE_SECONDS = 0.1  # between two parts of a slow request, where a part has more than one byte
_FLUSH_SECONDS = 0.01  # between two looks whether the bytes before a reset are sent

Sending = Callable[[], object] | None


class InjectedReset(ConnectionBroken):
    """A fault rule had the Mac reset the connection."""

    kind = "fault"


class ConnectionFault(msgspec.Struct, frozen=True):
    """What goes wrong with one request."""

    delay: float = 0.0
    """How much later it is sent, in seconds."""
    drop: At | None = None
    """Where the connection is reset."""
    bytes_per_s: float | None = None
    """How slowly it is sent."""
    identity: Identity | None = None
    """The client identity, where the request opens a connection."""
    rule: str = ""
    """The id of the fault rule."""


class FaultyConnection(HTTPConnection):
    """A connection to one origin. ``on_connect`` is asked what goes wrong whenever a connection is opened.

    ``connect_rule`` is the id of the rule that hit when the last request opened a connection; empty if none did.
    """

    __slots__ = ("_begun", "_fault", "_later", "_next", "_on_connect", "_rest", "_shown", "_whole", "connect_rule")

    def __init__(self, *args: Any, on_connect: Callable[[], ConnectionFault | None], **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._on_connect = on_connect
        self.connect_rule = ""
        self._next: ConnectionFault | None = None
        self._fault: ConnectionFault | None = None  # of the current request
        self._shown: Identity | None = None  # instead of its own, on the open connection
        self._whole: Request | None = None  # the current request
        self._rest = b""  # what is not written of it yet
        self._begun = False  # its first bytes are written
        self._later: DelayedCall | None = None

    def inject(self, fault: ConnectionFault | None) -> None:
        """Have this go wrong with the next request."""
        self._next = fault

    def request(self, request: Request, caller: Caller, sending: Sending = None) -> None:
        """Send a request, as HTTPConnection does, with its fault."""
        if self._caller is not None:
            raise MisuseError("request() called while another request awaits its response")
        fault, self._next = self._next, None
        self._fault = fault
        self._whole = request
        self.connect_rule = ""
        self._hold(0.0 if fault is None else fault.delay, self._go, caller, sending)

    def received(self, octets: bytes) -> None:
        """Bytes arrived: of the response, unless the connection is reset before."""
        if self._http2 is not None:
            super().received(octets)
        elif self._caller is not None and self._request is None:  # the request is held back: not an answer to it
            self._close_stream()
        elif self._fault is not None and self._fault.drop is not None:
            self._reset()
        else:
            super().received(octets)

    def _hold(self, seconds: float, then: Callable[[Caller, Sending], None], caller: Caller, sending: Sending) -> None:
        if not seconds:
            then(caller, sending)
            return
        self._caller = caller  # so that it is called if the connection is closed meanwhile
        self._later = self._reactor.callLater(seconds, self._release, then, sending)

    def _release(self, then: Callable[[Caller, Sending], None], sending: Sending) -> None:
        self._later = None
        caller, self._caller = self._caller, None
        if caller is not None:
            then(caller, sending)

    def _go(self, caller: Caller, sending: Sending) -> None:
        """The request's own delay is over: send it, over a new connection with the fault of that."""
        opened = None
        if not self._reusable:
            opened = self._on_connect()
            self._shown = None if opened is None else opened.identity
        if opened is not None:
            self.connect_rule = opened.rule
            own = self._fault or ConnectionFault()
            self._fault = ConnectionFault(
                drop=own.drop or opened.drop, bytes_per_s=own.bytes_per_s or opened.bytes_per_s
            )
        self._hold(0.0 if opened is None else opened.delay, self._request_now, caller, sending)

    def _request_now(self, caller: Caller, sending: Sending) -> None:
        if self._whole is not None:
            super().request(self._whole, caller, sending)

    def _secure(self, sock: socket.socket) -> tuple[SSL.Connection, Check]:
        if self._shown is None:
            return super()._secure(sock)
        host = self._origin.host  # no TLS session is resumed: the server would know the Mac by it
        check: Check = self._check_of(host)
        tls = self._contexts.client(sock, self._anchors, self._shown, check, host, alpn=self._alpn, groups=self._groups)
        return tls, check

    def _keep_session(self, stream: TLSStream) -> None:
        if self._shown is None:
            super()._keep_session(stream)

    def _send(self) -> None:
        fault = self._fault
        if fault is None:
            super()._send()
            return
        if fault.drop == "before_request":
            self._later = self._reactor.callLater(0.0, self._reset_due)
            return
        attempt = self._attempt
        super()._send()
        self._begun = True
        if attempt == self._attempt and self._stream is not None and self._caller is not None:
            self._send_more()

    def _encoded(self) -> bytes:
        """The bytes to begin with; ``_rest`` follows."""
        octets, fault = super()._encoded(), self._fault
        if fault is None:
            return octets
        if fault.drop == "in_request":
            octets = octets[: len(octets) // 2]
        part = len(octets) if fault.bytes_per_s is None else _slice(fault.bytes_per_s)
        self._rest = octets[part:]
        return octets[:part]

    def _write(self, octets: bytes) -> None:
        """Write bytes; what HTTP/2 sends after the first frames follows the rest of them, or is cut off with it."""
        fault = self._fault
        if fault is not None and fault.drop == "before_request":
            return  # not even an answer to the server's SETTINGS
        if fault is None or not self._begun or (fault.drop != "in_request" and fault.bytes_per_s is None):
            super()._write(octets)
        elif octets and fault.drop != "in_request":
            self._rest += octets
            if self._later is None:
                self._send_more()

    def _send_more(self) -> None:
        """Write the next part of a slow request after a while, or reset the connection after the last one."""
        self._later = None
        fault = self._fault
        if fault is None:
            return
        if self._rest and fault.bytes_per_s is not None:
            pause = _slice(fault.bytes_per_s) / fault.bytes_per_s
            self._later = self._reactor.callLater(pause, self._write_part, fault.bytes_per_s)
        elif fault.drop in ("in_request", "after_request"):
            unsent = self._stream is not None and self._stream.unsent
            self._later = self._reactor.callLater(
                _FLUSH_SECONDS if unsent else 0.0, self._send_more if unsent else self._reset_due
            )

    def _write_part(self, rate: float) -> None:
        self._later = None
        stream, attempt = self._stream, self._attempt
        if stream is None or stream.state is not State.OPEN:
            return
        self._answer_due = self._reactor.seconds() + self._timeouts.answer
        if not stream.unsent:
            part = _slice(rate)
            octets, self._rest = self._rest[:part], self._rest[part:]
            stream.write(octets)
        if attempt == self._attempt and self._stream is stream and self._caller is not None:
            self._send_more()

    def _reset_due(self) -> None:
        self._later = None
        self._reset()

    def _reset(self) -> None:
        point = "" if self._fault is None or self._fault.drop is None else f" ({self._fault.drop})"
        self.break_off(InjectedReset(f"a fault rule reset the connection{point}"), in_order=False)

    def _again(self) -> None:
        self._next = self._fault
        super()._again()

    def _complete(self, response: Response) -> None:
        if self._fault is not None and self._fault.drop is not None:
            self._reset()
            return
        if self._rest and self._http2 is not None:  # frames are not left unfinished
            rest, self._rest = self._rest, b""
            HTTPConnection._write(self, rest)
        if self._rest:  # a response before the whole request was sent
            response = response._replace(keep_alive=False)
        super()._complete(response)

    def _finish(self) -> Caller | None:
        later, self._later = self._later, None
        if later is not None:
            later.cancel()
        self._fault = None
        self._rest = b""
        self._begun = False
        return super()._finish()


def _slice(rate: float) -> int:
    """The bytes of one part of a slow request."""
    return max(1, int(rate * _SLICE_SECONDS))
