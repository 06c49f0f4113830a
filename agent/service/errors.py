"""What a request to the service asks for that cannot be done."""

from __future__ import annotations

from typing import ClassVar

from agent.errors import OperatorError


class NotFound(OperatorError):
    """There is no such Mac, segment or rule."""

    kind: ClassVar[str] = "not_found"


class NoSuchMac(NotFound):
    """No Mac has this UDID, serial number or number."""


class Conflict(OperatorError):
    """The request contradicts the present state, such as the power button of a Mac without mains."""

    kind: ClassVar[str] = "conflict"
