"""The lab's SCEP server: issues MDM identities to clients with a challenge from an enrollment profile. No I/O.

Source: RFC 8894.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableSet
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.lab.defects import NONE, Defects
from agent.lab.enrollment.challenges import Challenges
from agent.pki.issuing.authorities import Authorities
from agent.pki.scep.ca import SCEPRequest, cert_rep_failure, cert_rep_success, read_request
from agent.pki.scep.cacert import render_ca_certificates
from agent.pki.scep.caps import LAB_CAPABILITIES, Capabilities, Capability, render_caps
from agent.pki.scep.csr import CertificateRequest
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure
from agent.pki.scep.messages import CONTENT_TYPE, from_query, open_message

_NONCE_BYTES = 16
_OTHER_TYPE = "application/octet-stream"


class Answer(msgspec.Struct, frozen=True):
    """The HTTP response."""

    status: int
    content_type: str
    body: bytes


class SCEPService(Challenges):
    """The three SCEP operations.

    ``defects`` are behaviours that are wrong on purpose.
    """

    def __init__(
        self, authorities: Authorities, challenges: MutableSet[str] | None = None, defects: Defects = NONE
    ) -> None:
        super().__init__(challenges)
        self._defects = defects
        self._authorities = authorities
        self._ca = authorities.scep

    def operate(self, operation: str, message: str | bytes) -> Answer:
        """Answer one operation. ``message`` is the query parameter of a GET, or the body of a POST."""
        answer = self._answer(operation, message)
        return _spoiled(operation, answer, self._defects) if self._defects else answer

    def _answer(self, operation: str, message: str | bytes) -> Answer:
        match operation:
            case "GetCACaps":
                return Answer(200, "text/plain", render_caps(LAB_CAPABILITIES))
            case "GetCACert":
                return Answer(200, *render_ca_certificates([self._ca.certificate]))
            case "PKIOperation":
                return self._pki_operation(message)
        return Answer(400, "text/plain", f"unknown operation {operation[:80]!r}\n".encode())

    def _pki_operation(self, octets: str | bytes) -> Answer:
        nonce, ca = secrets.token_bytes(_NONCE_BYTES), self._ca.identity
        try:
            message = open_message(from_query(octets) if isinstance(octets, str) else octets)
        except SCEPError as error:
            return Answer(400, "text/plain", f"{error}\n".encode())
        try:
            request = read_request(message, ca)
            csr = self._approved(request)
            issued = self._authorities.issue_for(csr)
            self.issued(csr.challenge or "", issued)
            return Answer(200, CONTENT_TYPE, cert_rep_success(request, ca, nonce, issued))
        except SCEPFailure as failure:
            fail_info = failure.fail_info or FailInfo.BAD_REQUEST
            return Answer(200, CONTENT_TYPE, cert_rep_failure(message, ca, nonce, fail_info, str(failure)))

    def _approved(self, request: SCEPRequest) -> CertificateRequest:
        """The certificate request, if its challenge is valid. Raises SCEPFailure."""
        if request.csr is None:
            raise SCEPFailure(FailInfo.BAD_CERT_ID, "the CA has no pending requests")
        challenge = request.csr.challenge or ""
        if not self.use(challenge) and "scep-challenge-unchecked" not in self._defects:
            raise SCEPFailure(FailInfo.BAD_REQUEST, "the challenge is unknown or was already used")
        return request.csr


def _spoiled(operation: str, answer: Answer, defects: Defects) -> Answer:
    """The answer to an operation with the lab's defects."""
    if operation == "GetCACaps" and "scep-caps-404" in defects:
        return Answer(404, "text/plain", b"there is no GetCACaps\n")
    if operation == "GetCACaps" and "scep-caps-des" in defects:
        weak = frozenset((Capability.DES3, Capability.SHA_1, Capability.POST_PKI_OPERATION))
        return replace(answer, body=render_caps(Capabilities(weak)))
    if operation == "GetCACert" and "scep-cacert-type" in defects:
        return replace(answer, content_type=_OTHER_TYPE)
    if operation == "PKIOperation" and "scep-pki-type" in defects:
        return replace(answer, content_type=_OTHER_TYPE)
    return answer


def spoiled_payload(payload: dict[str, Any], defects: Defects) -> dict[str, Any]:
    """The SCEP payload with the lab's defects."""
    if "scep-fingerprint" in defects:
        payload["PayloadContent"]["CAFingerprint"] = bytes(32)
    if "scep-keysize" in defects:
        payload["PayloadContent"]["Keysize"] = 2000
    return payload
