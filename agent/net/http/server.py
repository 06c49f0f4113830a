"""NEW"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.web.server import Request, Site

MAX_BODY_BYTES = 4 * 1024 * 1024


class _QuietSite(Site):
    """Twisted's web server without its access log, which nobody reads and every request would pay for.

    ``keeps_body`` says, when a request's header is there, whether its body is kept or thrown away as it comes. No body
    is taken for a form.
    """

    def __init__(self, root: Any) -> None:
        super().__init__(root, requestFactory=_BoundedRequest, parsePOSTFormSubmission=False)
        self.keeps_body: Callable[[Any], bool] = lambda _request: True

    def log(self, _request: Any) -> None:
        """Nothing."""


class _BoundedRequest(Request):
    """A request whose body is thrown away, and answered with 413, once it is past the limit.

    The body of one that has no right to send any is thrown away from the beginning; it is answered by its header alone.
    """

    too_long = False
    _kept = True
    _length = 0

    def gotLength(self, length: int | None) -> None:
        """The announced length; None where the body is chunked."""
        channel: Any = self.channel  # of Site, which is told to its channels
        self._kept = channel.site.keeps_body(self)
        if length is not None and length > MAX_BODY_BYTES:
            self.too_long = True
        super().gotLength(0 if self.too_long or not self._kept else length)

    def handleContentChunk(self, chunk: bytes) -> None:
        """A part of the body."""
        self._length += len(chunk)
        if self._length > MAX_BODY_BYTES:
            self.too_long = True
        if self._kept and not self.too_long:
            super().handleContentChunk(chunk)
