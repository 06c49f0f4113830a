"""The resource ``/acme/`` of the lab's web server: ACME over HTTPS."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import Resource

from agent.lab.enrollment.acme import PATH, ACMEService
from agent.net.http.server import MAX_BODY_BYTES

_METHODS = (b"GET", b"HEAD", b"POST")


class ACMEResource(Resource):
    """All resources of an ACME service."""

    isLeaf = True

    def __init__(self, service: ACMEService) -> None:
        super().__init__()
        self._service = service

    def render(self, request: Any) -> bytes:
        """The service's answer; its error is a problem document."""
        request.setHeader(b"server", b"lom-agent lab")
        if request.method not in _METHODS:
            request.setResponseCode(405)
            request.setHeader(b"allow", b", ".join(_METHODS))
            return b""
        if request.too_long:
            request.setResponseCode(413)
            return f"the body has more than {MAX_BODY_BYTES} bytes\n".encode()
        path = request.path.decode("latin-1").removeprefix(PATH)
        content_type = (request.getHeader(b"content-type") or b"").decode("latin-1")
        answered = self._service.answer(request.method.decode("ascii"), path, request.content.read(), content_type)
        request.setResponseCode(answered.status)
        request.setHeader(b"content-type", answered.content_type.encode("ascii"))
        for name, value in answered.headers.items():
            request.setHeader(name.encode("ascii"), value.encode("ascii"))
        return answered.body
