"""The lab's network server: HTTPS with client certificates, on loopback by default, on Twisted's web server."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableSet, Sequence
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.web.resource import Resource

from agent.lab.enrollment.acme import PATH, ACMEService
from agent.lab.enrollment.acme_server import ACMEResource
from agent.lab.enrollment.automated import AutomatedEnrollment
from agent.lab.enrollment.profiles import EnrollmentProfiles
from agent.lab.enrollment.renewal import spoiled
from agent.lab.enrollment.scep import SCEPService, spoiled_payload
from agent.lab.lom.actions import LabLOM
from agent.lab.mdm.core import Lab, Refused
from agent.lab.mdm.push import LabPush
from agent.lab.web.api import API, is_authorised
from agent.lab.web.breaking import lab_site
from agent.lab.web.connection import LabSite
from agent.lab.web.requests import LabRequest, request_of_twisted
from agent.lab.web.resources import (
    SCEPURL,
    XML,
    AssetURL,
    AutomatedURL,
    Endpoint,
    EndpointResource,
    EnrollmentURL,
    MessageURL,
    PlatformSSOURL,
)
from agent.lab.web.tls import LabTLS
from agent.mdm.automated import CONTENT_TYPE
from agent.net.http.server import listen
from agent.net.transport.addresses import address_text
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import CHALLENGE, ProfileTemplate, acme_payload, enrollment_profile, scep_payload

HOST = "127.0.0.1"


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
        self._acme = ACMEService(authorities, challenges, lab.defects) if acme else None
        # 2040 bits: OpenSSL rounds its strength up to that of 2048, and accepts it.
        weak = rsa.generate_private_key(65537, 2040) if "tls-weak-key" in lab.defects else None  # noqa: S505
        self._identity = authorities.server_identity(names, weak)
        self._profiles = EnrollmentProfiles(authorities, lab.defects)
        self.automated = AutomatedEnrollment(lambda: authorities.device_authority.certificate)
        self._ports: list[Any] = []
        self._written: ProfileTemplate | None = None

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
        endpoints = self._endpoints()
        root = _tree(endpoints)
        renewal = partial(self.enrollment_profile, renews=True)
        root.putChild(b"api", API(self._reactor, self.lab, self.lom, self.token, lambda: self.push, renewal))
        if self._scep is not None:
            self.lab.issued = self._scep.renewals
            of_scep: dict[bytes, Endpoint] = {b"/scep": SCEPURL(self._scep)}
            scep = LabSite(_tree(of_scep), of_scep)
            self._ports.append(listen(self._reactor, scep, self._host, scep_port, what="SCEP"))
            self.scep_url = f"http://{address_text(self._name, self._ports[-1].getHost().port)}/scep"
        if self._acme is not None:
            self.lab.issued = self._acme.renewals
            root.putChild(b"acme", ACMEResource(self._acme))
        site = lab_site(root, self.lab, endpoints)
        site.keeps_body = self._keeps_body
        if isinstance(site, LabSite):
            site.keeps = self._keeps
        spoken = site.acceptableProtocols()
        connections = LabTLS(self.authorities, self._identity, self.lab.defects, spoken)
        self._ports.append(listen(self._reactor, site, self._host, port, what="The lab", tls=connections))
        self.url = f"https://{address_text(self._name, self._ports[-1].getHost().port)}"
        if self._acme is not None:
            self._acme.url = self.url + PATH

    def _endpoints(self) -> dict[bytes, Endpoint]:
        """What answers at each path, beside the API and ACME."""
        defects = self.lab.defects
        json_type = XML if "ddm-content-type" in defects else "application/json"
        command_type = "application/octet-stream" if "session-content-type" in defects else XML
        return {
            b"/enroll": EnrollmentURL(self.enrollment_profile, defects),
            b"/ade": AutomatedURL(self.automated, lambda: self.url, self.enrollment_profile),
            b"/psso": PlatformSSOURL(self.automated),
            b"/checkin": MessageURL(self.lab.check_in, json_type=json_type, defects=defects),
            b"/mdm": MessageURL(self.lab.report, command_type, defects=defects),
            b"/assets": AssetURL(self.lab),
        }

    def _keeps_body(self, request: Any) -> bool:
        """Whether the body of a request of twisted.web is kept: its sender is known, or has the API's token."""
        return is_authorised(request, self.token) or self._keeps(request_of_twisted(request))

    def _keeps(self, request: LabRequest) -> bool:
        """Whether the sender may send a body: a Mac with a certificate of the lab.

        Also a Mac that is not enrolled yet, with its signed MachineInfo. With ACME, anybody: a Mac that orders its
        certificate has none yet, and the URL is not known here.
        """
        if self._acme is not None:
            return True
        try:
            if request.single_header(b"content-type") == CONTENT_TYPE:
                return True
        except Refused:
            pass  # there are two: it is none of those
        try:
            return request.peer().fingerprint is not None or "identity-none-accepted" in self.lab.defects
        except Refused:  # answered with 403 when the request is answered
            return False

    def enrollment_profile(self, *, renews: bool = False) -> bytes:
        """A signed enrollment profile with a new identity, or a new challenge; ``renews``: for an enrolled Mac."""
        if self._scep is not None:
            challenge = self._scep.renewal_challenge() if renews else self._scep.new_challenge()
            profile = self._template().make(challenge)
        elif self._acme is not None:
            identifier = self._acme.renewal_challenge() if renews else self._acme.new_challenge()
            payload = acme_payload(self._acme.directory_url, identifier)
            profile = enrollment_profile(self.authorities, self.url, payload)
        else:
            profile = enrollment_profile(self.authorities, self.url, self._profiles.pkcs12())
        if renews and self.lab.defects:
            profile = spoiled(profile, self.lab.defects)
        return self._profiles.finished(profile)

    def _template(self) -> ProfileTemplate:
        """What makes the profiles with SCEP; they are written once."""
        if self._written is None:
            payload = spoiled_payload(scep_payload(self.authorities, self.scep_url, CHALLENGE), self.lab.defects)
            self._written = ProfileTemplate(enrollment_profile(self.authorities, self.url, payload))
        return self._written

    def close(self) -> Deferred[Any]:
        """Stop listening; fires when the ports are closed."""
        ports, self._ports = self._ports, []
        return gatherResults([port.stopListening() or succeed(None) for port in ports])


def _tree(endpoints: Mapping[bytes, Endpoint]) -> Any:
    """The resource of twisted.web with these endpoints."""
    root: Any = Resource()
    for path, endpoint in endpoints.items():
        root.putChild(path[1:], EndpointResource(endpoint))
    return root
