"""The lab's network server: HTTPS with client certificates, on loopback by default, on Twisted's web server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, MutableSet, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.web.resource import Resource
from zope.interface import implementer

from agent.lab.defects import NONE, Defects
from agent.lab.enrollment.acme import PATH, ACMEService
from agent.lab.enrollment.acme_server import ACMEResource
from agent.lab.enrollment.automated import MANIFEST, AutomatedEnrollment
from agent.lab.enrollment.profiles import EnrollmentProfiles
from agent.lab.enrollment.renewal import spoiled
from agent.lab.enrollment.scep import SCEPService, spoiled_payload
from agent.lab.lom.actions import LabLOM
from agent.lab.mdm.core import Lab, Message, Refused
from agent.lab.mdm.push import LabPush
from agent.lab.web.api import API, is_authorised
from agent.lab.web.breaking import lab_site
from agent.mdm.automated import CONTENT_TYPE
from agent.net.http.server import MAX_BODY_BYTES, BoundedSite, connection_of, listen
from agent.net.transport.addresses import address_text
from agent.net.transport.openssl_direct import was_resumed
from agent.net.transport.tls import make_context
from agent.pki.certificates import CertificateError, peer_certificate
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import acme_payload, enrollment_profile, platform_sso_profile, scep_payload

HOST = "127.0.0.1"
_NO_EXTENDED_MASTER_SECRET = 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET, which pyOpenSSL does not name
_EXPIRED, _SELF_SIGNED, _UNKNOWN_ISSUER, _CANNOT_VERIFY = 10, 18, 20, 21  # X509_V_ERR_…, which pyOpenSSL does not name
_XML = b"application/xml; charset=utf-8"
_log = Logger()
_connections = count(1)


class LabServer:
    """Serves a lab over HTTPS. ``url`` is its base URL, after ``listen``; ``token`` is the bearer token of its API.

    ``push`` sends its pushes; None if the lab cannot push, so that Macs poll.

    With ``scep`` the enrollment profile has a SCEP payload, with ``acme`` an ACME payload, otherwise a PKCS12. SCEP is
    served without TLS, as by most CAs: its messages are signed and encrypted themselves. ``challenges`` and ``token``
    continue those of an earlier process; by default there are no challenges, and the token is new. It listens at the
    address ``host``; its certificate has ``names``, of which the first is in its URLs.
    """

    def __init__(
        self,
        reactor: Any,
        lab: Lab,
        authorities: Authorities,
        *,
        scep: bool = False,
        acme: bool = False,
        token: str | None = None,
        challenges: MutableSet[str] | None = None,
        host: str = HOST,
        names: Sequence[str] = (HOST, "localhost"),
    ) -> None:
        self._host = host
        self._name = names[0]
        self.lab = lab
        self.lom = LabLOM(lab, authorities, lab.defects)
        self.authorities = authorities
        self.url = ""
        self.scep_url = ""
        self.token = token or secrets.token_urlsafe(24)
        self.push: LabPush | None = None
        self._reactor = reactor
        self._scep = SCEPService(authorities, challenges, lab.defects) if scep else None
        self._acme = ACMEService(authorities, challenges) if acme else None
        # 2040 bits: OpenSSL rounds its strength up to that of 2048, and accepts it.
        weak = rsa.generate_private_key(65537, 2040) if "tls-weak-key" in lab.defects else None  # noqa: S505
        self._identity = authorities.server_identity(names, weak)
        self._profiles = EnrollmentProfiles(authorities, lab.defects)
        self.automated = AutomatedEnrollment(lambda: authorities.device_authority.certificate)
        self._ports: list[Any] = []

    @property
    def enrollment_url(self) -> str:
        """The URL of the enrollment profile."""
        return f"{self.url}/enroll"

    @property
    def automated_url(self) -> str:
        """The URL of automated enrollment."""
        return f"{self.url}/ade"

    def listen(self, port: int = 0, scep_port: int = 0) -> None:
        """Listen; port 0 selects a free port. Raises OperatorError."""
        root: Any = Resource()
        root.putChild(b"enroll", _Enrollment(self))
        root.putChild(b"ade", _Automated(self))
        root.putChild(b"psso", _PlatformSSO(self))
        json_type = _XML if "ddm-content-type" in self.lab.defects else b"application/json"
        root.putChild(b"checkin", _Put(self.lab.check_in, json_type=json_type, defects=self.lab.defects))
        command_type = b"application/octet-stream" if "session-content-type" in self.lab.defects else _XML
        root.putChild(b"mdm", _Put(self.lab.report, command_type, defects=self.lab.defects))
        root.putChild(b"assets", _Asset(self.lab))
        renewal = partial(self.enrollment_profile, renews=True)
        root.putChild(b"api", API(self._reactor, self.lab, self.lom, self.token, lambda: self.push, renewal))
        if self._scep is not None:
            self.lab.issued = self._scep.renewals
            scep: Any = Resource()
            scep.putChild(b"scep", _SCEP(self._scep))
            self._ports.append(listen(self._reactor, BoundedSite(scep), self._host, scep_port, what="SCEP"))
            self.scep_url = f"http://{address_text(self._name, self._ports[-1].getHost().port)}/scep"
        if self._acme is not None:
            self.lab.issued = self._acme.renewals
            root.putChild(b"acme", ACMEResource(self._acme))
        site = lab_site(root, self.lab)
        site.keeps_body = self._keeps_body
        spoken = site.acceptableProtocols()
        connections = _Connections(self.authorities, self._identity, self.lab.defects, spoken)
        self._ports.append(listen(self._reactor, site, self._host, port, what="The lab", tls=connections))
        self.url = f"https://{address_text(self._name, self._ports[-1].getHost().port)}"
        if self._acme is not None:
            self._acme.url = self.url + PATH

    def _keeps_body(self, request: Any) -> bool:
        """Whether the sender may send a body: a Mac with a certificate of the lab, or an API client with the token.

        Also a Mac that is not enrolled yet, with its signed MachineInfo. With ACME, anybody: a Mac that orders its
        certificate has none yet, and the URL is not known here.
        """
        known = self._acme is not None or _single_or_none(request) == CONTENT_TYPE
        if known or is_authorised(request, self.token):
            return True
        try:
            return _peer(request)[1] is not None or "identity-none-accepted" in self.lab.defects
        except Refused:  # answered with 403 when the request is rendered
            return False

    def enrollment_profile(self, *, renews: bool = False) -> bytes:
        """A signed enrollment profile with a new identity, or a new challenge; ``renews``: for an enrolled Mac."""
        if self._scep is not None:
            challenge = self._scep.renewal_challenge() if renews else self._scep.new_challenge()
            payload = scep_payload(self.authorities, self.scep_url, challenge)
            payload = spoiled_payload(payload, self.lab.defects)
        elif self._acme is not None:
            identifier = self._acme.renewal_challenge() if renews else self._acme.new_challenge()
            payload = acme_payload(self._acme.directory_url, identifier)
        else:
            payload = self._profiles.pkcs12()
        profile = enrollment_profile(self.authorities, self.url, payload)
        if renews and self.lab.defects:
            profile = spoiled(profile, self.lab.defects)
        return self._profiles.finished(profile)

    def close(self) -> Deferred[Any]:
        """Stop listening; fires when the ports are closed."""
        ports, self._ports = self._ports, []
        return gatherResults([port.stopListening() or succeed(None) for port in ports])


@implementer(IOpenSSLServerConnectionCreator)
class _Connections:
    """Creates the TLS ends of accepted connections: client certificates are requested, but not required.

    ``spoken`` are the protocols of ALPN, the preferred one first.
    """

    def __init__(self, authorities: Authorities, identity: Identity, defects: Defects, spoken: Sequence[bytes]) -> None:
        # With session tickets, the default of most servers; a resumed session keeps its client certificate.
        context = make_context(authorities.mdm_anchors, tickets=True)
        context.set_session_id(b"lom-agent lab")
        context.set_alpn_select_callback(partial(_chosen, spoken))
        if "tls-old-versions" in defects:
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
        if "tls-cbc" in defects:
            context.set_cipher_list(b"ECDHE+AES+SHA384:ECDHE+AES+SHA256:!AESGCM:!AESCCM")
        if "tls-no-extended-master-secret" in defects:
            context.set_options(_NO_EXTENDED_MASTER_SECRET)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        # The enrollment profile is fetched without a certificate; Lab requires one for check-ins and reports.
        context.set_verify(SSL.VERIFY_PEER, _chain_check(defects))
        self._context = context

    def serverConnectionForTLS(self, _protocol: object) -> SSL.Connection:
        """The TLS end of a new connection."""
        return SSL.Connection(self._context, None)


def _chosen(spoken: Sequence[bytes], _connection: SSL.Connection, offered: list[bytes]) -> bytes | Any:
    """The protocol for a client that offers some by ALPN; without a common one the connection does without ALPN."""
    return next((each for each in spoken if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def _chain_check(defects: Defects) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
    """What decides about each certificate of a chain, with the errors that OpenSSL found."""
    forgiven: frozenset[int] = frozenset()
    if "identity-any-ca" in defects:
        forgiven |= {_UNKNOWN_ISSUER, _CANNOT_VERIFY}
    if "identity-expired-accepted" in defects:
        forgiven |= {_SELF_SIGNED, _EXPIRED}

    def check(_connection: SSL.Connection, _certificate: crypto.X509, error: int, _depth: int, ok: int) -> bool:
        return bool(ok) or error in forgiven

    return check


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
        request.setHeader(b"server", b"lom-agent lab")
        try:
            if request.too_long:
                raise Refused(self.too_long_status, f"the body has more than {MAX_BODY_BYTES} bytes")
            return answer()
        except Refused as error:
            _log.info("refused {path}: {error}", path=request.path, error=error)
            request.setResponseCode(error.status)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return f"{error}\n".encode()


class _Enrollment(_Endpoint):
    methods = (b"GET",)

    def __init__(self, server: LabServer) -> None:
        super().__init__()
        self._server = server

    def render_GET(self, request: Any) -> bytes:
        """A new profile for each request."""
        wrong = "enroll-content-type" in self._server.lab.defects
        request.setHeader(b"content-type", b"text/xml" if wrong else b"application/x-apple-aspen-config")
        return self.respond(request, self._server.enrollment_profile)


class _Automated(_Endpoint):
    methods = (b"POST",)

    def __init__(self, server: LabServer) -> None:
        super().__init__()
        self._server = server

    def render_POST(self, request: Any) -> bytes:
        """A profile, or what the Mac has to do before."""
        return self.respond(request, lambda: self._answer(request))

    def _answer(self, request: Any) -> bytes:
        refused = self._server.automated.decide(request.content.read(), self._server.url)
        if refused is None:
            request.setHeader(b"content-type", b"application/x-apple-aspen-config")
            return self._server.enrollment_profile()
        request.setResponseCode(403)
        request.setHeader(b"content-type", b"application/json")
        return refused.body


class _PlatformSSO(_Endpoint):
    """The URLs of a refusal that asks for Platform SSO: profile, manifest and sign-in."""

    methods = (b"GET",)

    def __init__(self, server: LabServer) -> None:
        super().__init__()
        self._server = server

    def render_GET(self, request: Any) -> bytes:
        """What one of the URLs has."""
        return self.respond(request, lambda: self._answer(request))

    def _answer(self, request: Any) -> bytes:
        match request.postpath:
            case [b"profile"]:
                request.setHeader(b"content-type", b"application/x-apple-aspen-config")
                return platform_sso_profile()
            case [b"manifest"]:
                request.setHeader(b"content-type", _XML)
                return MANIFEST
            case [b"auth"]:
                self._server.automated.sign_in(_argument(request, b"udid"))
                return b""
        raise Refused(404, "there is no such URL of Platform SSO")


class _Asset(_Endpoint):
    """The files that declarations refer to."""

    methods = (b"GET",)

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def render_GET(self, request: Any) -> bytes:
        """One file, by its name."""
        request.setHeader(b"content-type", b"application/octet-stream")
        name = b"/".join(request.postpath).decode("utf-8", "replace")
        return self.respond(request, lambda: self._lab.asset(name, _peer(request)[1]))


class _Put(_Endpoint):
    """The URL of check-ins, or of reports."""

    methods = (b"PUT",)

    def __init__(
        self,
        take: Callable[[Message], bytes],
        content_type: bytes = _XML,
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
        message = _message(request)
        return replace(message, content_type=_single(request, b"content-type") or "") if self._strict else message


class _SCEP(_Endpoint):
    methods = (b"GET", b"POST")

    def __init__(self, service: SCEPService) -> None:
        super().__init__()
        self._service = service

    def render_GET(self, request: Any) -> bytes:
        """GetCACaps, GetCACert, or PKIOperation with the message in the query."""
        return self._operate(request, _argument(request, b"message"))

    def render_POST(self, request: Any) -> bytes:
        """PKIOperation with the message in the body."""
        return self._operate(request, request.content.read())

    def _operate(self, request: Any, message: str | bytes) -> bytes:
        def answer() -> bytes:
            answered = self._service.operate(_argument(request, b"operation"), message)
            request.setResponseCode(answered.status)
            request.setHeader(b"content-type", answered.content_type.encode("ascii"))
            return answered.body

        return self.respond(request, answer)


def _argument(request: Any, name: bytes) -> str:
    values = request.args.get(name, [b""])
    return str(values[0].decode("latin-1"))


def _message(request: Any) -> Message:
    content_type, signature = _single(request, b"content-type"), _single(request, b"mdm-signature")
    connection, fingerprint = _peer(request)
    return Message(
        body=request.content.read(),
        content_type=(content_type or "").partition(";")[0].strip().lower(),
        fingerprint=fingerprint,
        signature=signature,
        connection=connection,
        resumed=was_resumed(connection_of(request).transport.getHandle()),
    )


def _single(request: Any, name: bytes) -> str | None:
    """The value of a header that may occur once, or None. Raises Refused."""
    values = request.requestHeaders.getRawHeaders(name, [])
    if len(values) > 1:
        raise Refused(400, f"Expected one header {name.decode()}, found {len(values)}. Send it once.")
    return values[0].decode("latin-1") if values else None


def _single_or_none(request: Any) -> str | None:
    """The Content-Type; None where it is absent or there twice."""
    try:
        return _single(request, b"content-type")
    except Refused:
        return None


def _peer(request: Any) -> tuple[int, bytes | None]:
    """The number of the connection, and SHA-256 of its client certificate (verified by TLS) or None. Raises Refused."""
    connection = connection_of(request)
    if not hasattr(connection, "lab_peer"):
        try:
            certificate = peer_certificate(connection.transport.getHandle())
        except CertificateError as error:
            raise Refused(403, f"the client certificate is refused: {error}") from error
        fingerprint = None if certificate is None else certificate.fingerprint(hashes.SHA256())
        connection.lab_peer = next(_connections), fingerprint
    peer: tuple[int, bytes | None] = connection.lab_peer
    return peer
