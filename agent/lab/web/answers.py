"""The header of the lab's responses."""

from __future__ import annotations

import time
from functools import lru_cache

from twisted.web.http import datetimeToString

from agent import __version__
from agent.lab.web.requests import LabAnswer

SERVER = f"lom-agent/{__version__} lab".encode()  # of the header Server


def response_fields(answered: LabAnswer) -> list[tuple[bytes, bytes]]:
    """The header fields of a response."""
    fields = [(b"server", SERVER), (b"date", _date(int(time.time()))), (b"content-length", b"%d" % len(answered.body))]
    if answered.content_type:
        fields.append((b"content-type", answered.content_type.encode("ascii")))
    if answered.allow:
        fields.append((b"allow", answered.allow))
    return fields


@lru_cache(1)
def _date(second: int) -> bytes:
    return bytes(datetimeToString(second))  # type: ignore[no-untyped-call]  # of Twisted
