"""How much of its Devices one peer may have: links open at once, requests a second. No I/O.

A peer is an address until the handshake tells which Controller it is. What it may not have it is refused at once, so
that a peer that floods one Device, or holds links open and says nothing, keeps nobody else out.
"""

from __future__ import annotations

from collections.abc import Hashable

from agent.lom.link import LIMITS, LinkError, LinkLimits

_WINDOW_SECONDS = 1.0
_MOST_WINDOWS = 1024  # after which those that are over are forgotten


class TooManyLinks(LinkError):
    """A peer has as many links open as it may."""

    kind = "lom_too_many_links"


class TooManyRequests(LinkError):
    """A Controller asked more in a second than it may."""

    kind = "lom_too_many_requests"


class Gate:
    """What each peer of one network's Devices has. ``now`` is in seconds and never goes back."""

    __slots__ = ("_limits", "_links", "_windows")

    def __init__(self, limits: LinkLimits = LIMITS) -> None:
        self._limits = limits
        self._links: dict[Hashable, int] = {}
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def open(self, peer: Hashable) -> None:
        """One more link of ``peer``. Raises TooManyLinks."""
        count = self._links.get(peer, 0)
        if count >= self._limits.links_a_peer:
            raise TooManyLinks(f"too many links: one peer may have {self._limits.links_a_peer} open at one Device")
        self._links[peer] = count + 1

    def close(self, peer: Hashable) -> None:
        """One link of ``peer`` is over."""
        count = self._links.pop(peer, 0)
        if count > 1:
            self._links[peer] = count - 1

    def ask(self, peer: Hashable, now: float) -> None:
        """One more request of ``peer``. Raises TooManyRequests."""
        since, count = self._windows.get(peer, (now, 0))
        if now - since >= _WINDOW_SECONDS:
            since, count = now, 0
        if count >= self._limits.requests_a_second:
            raise TooManyRequests(
                f"too many requests: one Controller may send {self._limits.requests_a_second} in a second"
            )
        if len(self._windows) >= _MOST_WINDOWS and peer not in self._windows:
            over = now - _WINDOW_SECONDS
            self._windows = {each: window for each, window in self._windows.items() if window[0] > over}
        self._windows[peer] = since, count + 1
