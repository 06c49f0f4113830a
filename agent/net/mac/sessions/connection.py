"""One Mac's HTTP connection for its sessions: it sends the reports and follows redirects.

It is opened for the first report and kept from one session to the next. The answers go to the Caller of each report.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from agent.device.mac import Device
from agent.errors import MisuseError
from agent.faults.decisions import Hit
from agent.mdm import results
from agent.mdm.checkin import USER_AGENT, user_agent
from agent.net.http.connection import Caller, HTTPConnection
from agent.net.http.fetch import MAX_REDIRECTS, RedirectRefused, redirected
from agent.net.http.http1 import Origin, Response, split_url
from agent.net.http.request import Request, RequestHead
from agent.net.http.resumption import Resumption
from agent.net.mac.faults.injection import connect_rule, inject
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.sessions.headers import signature_headers, unsigned_headers
from agent.pki.mdm_signatures import Signatures
from agent.profiles.enrollment import Enrollment

Sending = Callable[[], object]


class OpenConnection(NamedTuple):
    """The open connection of a Mac that is idle, without an identity. ``current``: it had that of the enrollment."""

    connection: HTTPConnection
    origin: Origin
    current: bool


class SessionConnection:
    """At most one open connection, to the origin of the last report. ``resumption`` may keep its TLS session."""

    __slots__ = ("_connection", "_device", "_environment", "_origin", "_redirects", "_report", "_resumption", "_url")

    def __init__(self, device: Device, environment: Environment, resumption: Resumption | None) -> None:
        self._device = device
        self._environment = environment
        self._resumption = resumption
        self._connection: HTTPConnection | None = None
        self._origin: Origin | None = None
        self._report = b""  # the last one and its URL, for a redirect
        self._url = ""
        self._redirects = 0

    @property
    def connected(self) -> bool:
        """Whether a connection is open."""
        return self._connection is not None and self._connection.connected

    @property
    def connect_rule(self) -> str:
        """The id of the fault rule that hit when the last report opened a connection; empty if none did."""
        return connect_rule(self._connection)

    @property
    def http_version(self) -> str:
        """The version of HTTP of the last connection; empty before the first one."""
        return "" if self._connection is None else self._connection.http_version

    def put(
        self, report: bytes, enrollment: Enrollment, caller: Caller, sending: Sending | None, hit: Hit | None = None
    ) -> None:
        """PUT a report to the ServerURL. ``sending`` is called at its first byte; ``hit`` is its fault."""
        self._redirects = 0
        self._report = report
        self._send_to(enrollment.server_url, enrollment, caller, sending, hit)

    def following(self, redirect: Response) -> str:
        """The URL of a redirect of the last report. Raises RedirectRefused."""
        following = redirected(self._url, redirect)
        if following is None:
            raise MisuseError(f"expected a redirect, found status {redirect.status}")
        if self._redirects >= MAX_REDIRECTS:
            raise RedirectRefused(f"more than {MAX_REDIRECTS} redirects")
        self._redirects += 1
        return following

    def follow(self, url: str, enrollment: Enrollment, caller: Caller, sending: Sending | None) -> None:
        """PUT the last report to the URL of a redirect."""
        self._send_to(url, enrollment, caller, sending)

    def free_memory(self) -> None:
        """Free the memory of the last report, which is answered."""
        self._report = b""

    def leave_open(self, enrollment: Enrollment | None) -> OpenConnection | None:
        """The open connection without the objects that ``enrollment`` has, for ``continue_on``; None if none is open.

        Neither this connection nor what refers to it may be used afterwards.
        """
        connection, origin = self._connection, self._origin
        if connection is None or origin is None or not connection.connected:
            return None
        current = enrollment is not None and connection.identity is enrollment.identity
        connection.identity = None
        return OpenConnection(connection, origin, current)

    def continue_on(self, kept: OpenConnection, enrollment: Enrollment | None) -> None:
        """Use the connection that ``leave_open`` returned; ``enrollment`` is the same one, restored."""
        self._connection, self._origin = kept.connection, kept.origin
        if kept.current and enrollment is not None:
            kept.connection.identity = enrollment.identity

    def hang_up(self) -> None:
        """Close the connection; the next report opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def power_lost(self, *, in_order: bool) -> None:
        """The Mac goes down: close the connection, or break it where not ``in_order``. The kept TLS session is lost."""
        if self._connection is not None:
            if in_order:
                self._connection.close()
            else:
                self._connection.abort()
        if self._resumption is not None:
            self._resumption.forget()

    def _send_to(
        self, url: str, enrollment: Enrollment, caller: Caller, sending: Sending | None, hit: Hit | None = None
    ) -> None:
        self._url = url
        origin, request = report_request(
            enrollment, url, self._report, self._environment.signatures, user_agent(self._device.mac.os_version)
        )
        connection = self._connection
        if connection is None or self._origin != origin or connection.identity is not enrollment.identity:
            connection = self._opened(origin, enrollment)
        if hit is not None:
            inject(connection, hit)
        connection.request(request, caller, sending)

    def _opened(self, origin: Origin, enrollment: Enrollment) -> HTTPConnection:
        self.hang_up()
        self._origin = origin
        self._connection = self._environment.connection(
            self._device.mac, origin, enrollment.identity, enrollment.anchors, enrollment.server_pins, self._resumption
        )
        return self._connection


_KEPT_HEADS = 256  # a fleet has one ServerURL and some releases; with a URL for each Mac, heads are made again


def report_request(
    enrollment: Enrollment,
    url: str,
    body: bytes,
    signatures: Signatures | None = None,
    agent: str = USER_AGENT,
) -> tuple[Origin, Request]:
    """A report's origin and request, with Mdm-Signature for SignMessage. Raises OperatorError for a bad URL."""
    origin, head = _head(url, agent)
    return origin, head.request(body, signature_headers(enrollment, body, signatures), valid=True)  # base64


@lru_cache(_KEPT_HEADS)
def _head(url: str, agent: str) -> tuple[Origin, RequestHead]:
    origin, target = split_url(url)
    return origin, RequestHead("PUT", origin, target, unsigned_headers(results.CONTENT_TYPE, agent))
