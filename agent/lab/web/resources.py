"""The URLs of the lab: each takes requests of its methods, and has the lab answer them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.logger import Logger
from twisted.web.resource import Resource

from agent import __version__
from agent.lab.defects import NONE, Defects
from agent.lab.enrollment.automated import MANIFEST, AutomatedEnrollment
from agent.lab.enrollment.scep import SCEPService
from agent.lab.mdm.core import Lab, Message, Refused
from agent.lab.web.requests import argument, message_of, peer_of, single_header
from agent.net.http.server import MAX_BODY_BYTES
from agent.profiles.making import platform_sso_profile

XML = b"application/xml; charset=utf-8"
_SERVER = f"lom-agent/{__version__} lab".encode()  # of the header Server
_log = Logger()


class _Endpoint(Resource):
    """One URL that takes messages: Refused becomes a response with its HTTP status."""

    isLeaf = True
    methods: tuple[bytes, ...] = ()
    too_long_status = 413

    def render(self, request: Any) -> Any:
        """Render methods in ``methods`` only: Twisted would render HEAD as GET, which issues an identity."""
        if request.method in self.methods:
            return super().render(request)
        request.setResponseCode(405)
        request.setHeader(b"allow", b", ".join(self.methods))
        return b""

    def respond(self, request: Any, answer: Callable[[], bytes]) -> bytes:
        """The body of the response."""
        request.setHeader(b"server", _SERVER)
        try:
            if request.too_long:
                raise Refused(self.too_long_status, f"the body has more than {MAX_BODY_BYTES} bytes")
            return answer()
        except Refused as error:
            _log.info("refused {path}: {error}", path=request.path, error=error)
            request.setResponseCode(error.status)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return f"{error}\n".encode()


class EnrollmentURL(_Endpoint):
    """The URL of the enrollment profile; ``profile`` makes one."""

    methods = (b"GET",)

    def __init__(self, profile: Callable[[], bytes], defects: Defects) -> None:
        super().__init__()
        self._profile = profile
        self._defects = defects

    def render_GET(self, request: Any) -> bytes:
        """A new profile for each request."""
        wrong = "enroll-content-type" in self._defects
        request.setHeader(b"content-type", b"text/xml" if wrong else b"application/x-apple-aspen-config")
        return self.respond(request, self._profile)


class AutomatedURL(_Endpoint):
    """The URL of automated enrollment; ``profile`` makes an enrollment profile, ``url`` is the lab's base URL."""

    methods = (b"POST",)

    def __init__(self, automated: AutomatedEnrollment, url: Callable[[], str], profile: Callable[[], bytes]) -> None:
        super().__init__()
        self._automated = automated
        self._url = url
        self._profile = profile

    def render_POST(self, request: Any) -> bytes:
        """A profile, or what the Mac has to do before."""
        return self.respond(request, lambda: self._answer(request))

    def _answer(self, request: Any) -> bytes:
        refused = self._automated.decide(request.content.read(), self._url())
        if refused is None:
            request.setHeader(b"content-type", b"application/x-apple-aspen-config")
            return self._profile()
        request.setResponseCode(403)
        request.setHeader(b"content-type", b"application/json")
        return refused.body


class PlatformSSOURL(_Endpoint):
    """The URLs of a refusal that asks for Platform SSO: profile, manifest and sign-in."""

    methods = (b"GET",)

    def __init__(self, automated: AutomatedEnrollment) -> None:
        super().__init__()
        self._automated = automated

    def render_GET(self, request: Any) -> bytes:
        """What one of the URLs has."""
        return self.respond(request, lambda: self._answer(request))

    def _answer(self, request: Any) -> bytes:
        match request.postpath:
            case [b"profile"]:
                request.setHeader(b"content-type", b"application/x-apple-aspen-config")
                return platform_sso_profile()
            case [b"manifest"]:
                request.setHeader(b"content-type", XML)
                return MANIFEST
            case [b"auth"]:
                self._automated.sign_in(argument(request, b"udid"))
                return b""
        raise Refused(404, "there is no such URL of Platform SSO")


class AssetURL(_Endpoint):
    """The files that declarations refer to."""

    methods = (b"GET",)

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def render_GET(self, request: Any) -> bytes:
        """One file, by its name."""
        request.setHeader(b"content-type", b"application/octet-stream")
        name = b"/".join(request.postpath).decode("utf-8", "replace")
        return self.respond(request, lambda: self._lab.asset(name, peer_of(request)[1]))


class MessageURL(_Endpoint):
    """The URL of check-ins, or of reports."""

    methods = (b"PUT",)

    def __init__(
        self,
        take: Callable[[Message], bytes],
        content_type: bytes = XML,
        *,
        json_type: bytes | None = None,
        defects: Defects = NONE,
    ) -> None:
        super().__init__()
        self._take = take
        self._content_type = content_type
        self._json_type = json_type
        self._strict = "survive-content-type-strict" in defects
        if "survive-long-500" in defects:
            self.too_long_status = 500

    def render_PUT(self, request: Any) -> bytes:
        """Process a message; the response is the next command, JSON, or empty."""
        request.setHeader(b"content-type", self._content_type)
        return self.respond(request, lambda: self._answer(request))

    def _answer(self, request: Any) -> bytes:
        body = self._take(self._received(request))
        if self._json_type is not None and body.startswith(b"{"):  # of a declarative check-in
            request.setHeader(b"content-type", self._json_type)
        return body

    def _received(self, request: Any) -> Message:
        message = message_of(request)
        return replace(message, content_type=single_header(request, b"content-type") or "") if self._strict else message


class SCEPURL(_Endpoint):
    """The URL of the SCEP server."""

    methods = (b"GET", b"POST")

    def __init__(self, service: SCEPService) -> None:
        super().__init__()
        self._service = service

    def render_GET(self, request: Any) -> bytes:
        """GetCACaps, GetCACert, or PKIOperation with the message in the query."""
        return self._operate(request, argument(request, b"message"))

    def render_POST(self, request: Any) -> bytes:
        """PKIOperation with the message in the body."""
        return self._operate(request, request.content.read())

    def _operate(self, request: Any, message: str | bytes) -> bytes:
        def answer() -> bytes:
            answered = self._service.operate(argument(request, b"operation"), message)
            request.setResponseCode(answered.status)
            request.setHeader(b"content-type", answered.content_type.encode("ascii"))
            return answered.body

        return self.respond(request, answer)
