"""The tree of errors: our own misuse, the peer's fault, the operator's input.

Every error says what was expected, what was found and, where there is something to do, what to do next.
``kind`` is a short stable word under which results count it; the message is for the person who reads it.
"""

from __future__ import annotations

from typing import ClassVar


class LomAgentError(Exception):
    """The root: anything that this program raises on purpose."""

    kind: ClassVar[str] = "error"


class MisuseError(LomAgentError):
    """Our own code called something out of turn: a defect of this program, never of a peer."""

    kind = "misuse"


class PeerError(LomAgentError):
    """The other side of a connection, or the bytes that came from it, broke a rule."""

    kind = "peer"
    timed_out: ClassVar[bool] = False  # whether it says that something took longer than its time limit


class CutShort(PeerError):
    """What was under way was ended by this program itself: the Mac went down, the run is over. Nobody has failed."""

    kind = "stopped"


class OperatorError(LomAgentError):
    """What the person at the terminal gave (a file, an option, an address) cannot be used."""

    kind = "input"
