"""What ends a probe before its end."""

from __future__ import annotations

from agent.errors import PeerError


class Waited(PeerError):
    """Something did not happen within ``patience``."""

    kind = "conform_timeout"
    timed_out = True


class Unreachable(PeerError):
    """The server could not be reached."""

    kind = "conform_unreachable"


class CannotProvoke(PeerError):
    """The server, or the way it is asked, gives no means to provoke what the probe needs."""

    kind = "conform_cannot"
