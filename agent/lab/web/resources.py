"""The URLs of the lab: each takes requests of its methods, and has the lab answer them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.logger import Logger
from twisted.web.resource import Resource

from agent.lab.defects import NONE, Defects
from agent.lab.enrollment.automated import MANIFEST, AutomatedEnrollment
from agent.lab.enrollment.scep import SCEPService
from agent.lab.mdm.core import Lab, Message, Refused
from agent.lab.web.answers import SERVER
from agent.lab.web.requests import LabAnswer, LabRequest, request_of_twisted
from agent.net.http.server import MAX_BODY_BYTES
from agent.profiles.making import platform_sso_profile

XML = "application/xml; charset=utf-8"
PROFILE = "application/x-apple-aspen-config"
_TEXT = "text/plain; charset=utf-8"
_log = Logger()


class Endpoint(ABC):
    """One URL that takes messages: Refused becomes a response with its HTTP status."""

    methods: tuple[bytes, ...] = ()
    too_long_status = 413

    def respond(self, request: LabRequest) -> LabAnswer:
        """The response to a request. HEAD is no GET, which issues an identity."""
        if request.method not in self.methods:
            return LabAnswer(405, "", b"", b", ".join(self.methods))
        try:
            if request.too_long:
                raise Refused(self.too_long_status, f"the body has more than {MAX_BODY_BYTES} bytes")
            return self.answer(request)
        except Refused as error:
            _log.info("refused {url}: {error}", url=type(self).__name__, error=error)
            return LabAnswer(error.status, _TEXT, f"{error}\n".encode())

    @abstractmethod
    def answer(self, request: LabRequest) -> LabAnswer:
        """The response to a request of its methods. Raises Refused."""


class EndpointResource(Resource):
    """An endpoint as a resource of twisted.web, for the requests that it reads."""

    isLeaf = True

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    def render(self, request: Any) -> bytes:
        """The body of the response, after its status and headers were set."""
        answered = self._endpoint.respond(request_of_twisted(request, request.content.read()))
        request.setHeader(b"server", SERVER)
        request.setResponseCode(answered.status)
        if answered.allow:
            request.setHeader(b"allow", answered.allow)
        if answered.content_type:
            request.setHeader(b"content-type", answered.content_type.encode("ascii"))
        return answered.body


class EnrollmentURL(Endpoint):
    """The URL of the enrollment profile; ``profile`` makes one."""

    methods = (b"GET",)

    def __init__(self, profile: Callable[[], bytes], defects: Defects) -> None:
        self._profile = profile
        self._content_type = "text/xml" if "enroll-content-type" in defects else PROFILE

    def answer(self, _request: LabRequest) -> LabAnswer:
        """A new profile for each request."""
        return LabAnswer(200, self._content_type, self._profile())


class AutomatedURL(Endpoint):
    """The URL of automated enrollment; ``profile`` makes an enrollment profile, ``url`` is the lab's base URL."""

    methods = (b"POST",)

    def __init__(self, automated: AutomatedEnrollment, url: Callable[[], str], profile: Callable[[], bytes]) -> None:
        self._automated = automated
        self._url = url
        self._profile = profile

    def answer(self, request: LabRequest) -> LabAnswer:
        """A profile, or what the Mac has to do before."""
        refused = self._automated.decide(request.body, self._url())
        if refused is None:
            return LabAnswer(200, PROFILE, self._profile())
        return LabAnswer(403, "application/json", refused.body)


class PlatformSSOURL(Endpoint):
    """The URLs of a refusal that asks for Platform SSO: profile, manifest and sign-in."""

    methods = (b"GET",)

    def __init__(self, automated: AutomatedEnrollment) -> None:
        self._automated = automated

    def answer(self, request: LabRequest) -> LabAnswer:
        """What one of the URLs has."""
        match request.below:
            case (b"profile",):
                return LabAnswer(200, PROFILE, platform_sso_profile())
            case (b"manifest",):
                return LabAnswer(200, XML, MANIFEST)
            case (b"auth",):
                self._automated.sign_in(request.arguments()(b"udid"))
                return LabAnswer(200, "text/html", b"")
        raise Refused(404, "there is no such URL of Platform SSO")


class AssetURL(Endpoint):
    """The files that declarations refer to."""

    methods = (b"GET",)

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def answer(self, request: LabRequest) -> LabAnswer:
        """One file, by its name."""
        name = b"/".join(request.below).decode("utf-8", "replace")
        return LabAnswer(200, "application/octet-stream", self._lab.asset(name, request.peer().fingerprint))


class MessageURL(Endpoint):
    """The URL of check-ins, or of reports: the response is the next command, JSON, or empty."""

    methods = (b"PUT",)

    def __init__(
        self,
        take: Callable[[Message], bytes],
        content_type: str = XML,
        *,
        json_type: str | None = None,
        defects: Defects = NONE,
    ) -> None:
        self._take = take
        self._content_type = content_type
        self._json_type = json_type
        self._strict = "survive-content-type-strict" in defects
        if "survive-long-500" in defects:
            self.too_long_status = 500

    def answer(self, request: LabRequest) -> LabAnswer:
        """Process a message."""
        message = request.message()
        if self._strict:
            message = replace(message, content_type=request.single_header(b"content-type") or "")
        body = self._take(message)
        of_declarations = self._json_type is not None and body.startswith(b"{")
        return LabAnswer(200, (self._json_type or "") if of_declarations else self._content_type, body)


class SCEPURL(Endpoint):
    """The URL of the SCEP server: GetCACaps, GetCACert, PKIOperation with the message in the query or the body."""

    methods = (b"GET", b"POST")

    def __init__(self, service: SCEPService) -> None:
        self._service = service

    def answer(self, request: LabRequest) -> LabAnswer:
        """Answer one operation."""
        argument = request.arguments()
        message = argument(b"message") if request.method == b"GET" else request.body
        answered = self._service.operate(argument(b"operation"), message)
        return LabAnswer(answered.status, answered.content_type, answered.body)
