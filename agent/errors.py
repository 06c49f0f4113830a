"""The error classes: misuse by our own code, a fault of the peer, unusable input of the operator.

A message says what was expected, what was found and, where possible, what to do next. ``kind`` is the short stable
word under which the results count an error.
"""

from __future__ import annotations

from typing import ClassVar


class LomAgentError(Exception):
    """The base class of every error that this program raises itself."""

    kind: ClassVar[str] = "error"


class MisuseError(LomAgentError):
    """Our own code made an invalid call: a defect of this program, never of a peer."""

    kind = "misuse"


class PeerError(LomAgentError):
    """The other end of a connection, or the bytes that it sent, broke a rule."""

    kind = "peer"
    timed_out: ClassVar[bool] = False  # True where an operation exceeded its time limit


class CutShort(PeerError):
    """This program ended an operation itself: the Mac lost power or the run finished. It is not a failure."""

    kind = "stopped"


class OperatorError(LomAgentError):
    """A file, an option or an address that the operator gave cannot be used."""

    kind = "input"
