"""Limits per peer on the Devices of a network: open links, requests per second. No I/O.

A peer is identified by its address until the TLS handshake identifies the Controller. Excess links and requests are
refused at once, so that a peer that floods a Device, or keeps idle links open, does not block other peers.
"""

from __future__ import annotations

from collections.abc import Hashable

from agent.lom.link import LIMITS, LinkError, LinkLimits

_WINDOW_SECONDS = 1.0
_MOST_WINDOWS = 1024  # above this number, windows that have ended are dropped


class TooManyLinks(LinkError):
    """The peer has reached its limit of open links."""

    kind = "lom_too_many_links"


class TooManyRequests(LinkError):
    """The Controller has reached its limit of requests per second."""

    kind = "lom_too_many_requests"


class Gate:
    """Counts the open links and recent requests of each peer. ``now`` is in monotonic seconds."""

    __slots__ = ("_limits", "_links", "_windows")

    def __init__(self, limits: LinkLimits = LIMITS) -> None:
        self._limits = limits
        self._links: dict[Hashable, int] = {}
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def open(self, peer: Hashable) -> None:
        """Count a new link of ``peer``. Raises TooManyLinks."""
        count = self._links.get(peer, 0)
        if count >= self._limits.links_a_peer:
            raise TooManyLinks(f"too many links: one peer may have {self._limits.links_a_peer} open at one Device")
        self._links[peer] = count + 1

    def close(self, peer: Hashable) -> None:
        """Discount a closed link of ``peer``."""
        count = self._links.pop(peer, 0)
        if count > 1:
            self._links[peer] = count - 1

    def count_request(self, peer: Hashable, now: float) -> None:
        """Count a new request of ``peer``. Raises TooManyRequests."""
        since, count = self._windows.get(peer, (now, 0))
        if now - since >= _WINDOW_SECONDS:
            since, count = now, 0
        if count >= self._limits.requests_a_second:
            raise TooManyRequests(
                f"too many requests: one Controller may send {self._limits.requests_a_second} per second"
            )
        if len(self._windows) >= _MOST_WINDOWS and peer not in self._windows:
            ended = now - _WINDOW_SECONDS
            self._windows = {each: window for each, window in self._windows.items() if window[0] > ended}
        self._windows[peer] = since, count + 1
