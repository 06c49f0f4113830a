"""A report as the request that goes to the server."""

from __future__ import annotations

import pytest

from agent.errors import OperatorError
from agent.mdm.access_rights import ALL_RIGHTS
from agent.net.http.http1 import Origin
from agent.net.mac.sessions.connection import report_request
from agent.pki.cms import mdm_signature_signer
from agent.pki.issuing.authority import CLIENT_USAGE, Authority
from agent.profiles.enrollment import TOPIC_PREFIX, Enrollment

URL = "https://mdm.example.org/mdm?id=1"
MACS = [Authority.create("CA").issue(f"mac {number}", CLIENT_USAGE) for number in range(2)]


def enrollment(number: int = 0, *, sign: bool = False) -> Enrollment:
    return Enrollment(
        server_url=URL,
        check_in_url=URL,
        topic=f"{TOPIC_PREFIX}External.x",
        access_rights=ALL_RIGHTS,
        identity=MACS[number],
        anchors=(),
        sign_message=sign,
    )


def test_a_report() -> None:
    origin, request = report_request(enrollment(), URL, b"body")
    assert origin == Origin("mdm.example.org", 443)
    assert request.http1() == (
        b"PUT /mdm?id=1 HTTP/1.1\r\nHost: mdm.example.org\r\nUser-Agent: MDM-OSX/1.0 mdmclient/1543\r\n"
        b"Content-Type: application/x-apple-aspen-mdm\r\nContent-Length: 4\r\n\r\nbody"
    )


def test_each_report_is_signed_by_its_own_mac_over_its_own_body() -> None:
    for number in (0, 1, 0):
        body = b"body %d" % number
        _, request = report_request(enrollment(number, sign=True), URL, body)
        head, _, sent = request.http1().partition(b"\r\n\r\n")
        assert sent == body
        (signature,) = [line for line in head.decode().split("\r\n") if line.startswith("Mdm-Signature: ")]
        assert mdm_signature_signer(signature.removeprefix("Mdm-Signature: "), body) == MACS[number].certificate


def test_invalid_url_is_reported_each_time() -> None:
    for _ in range(2):
        with pytest.raises(OperatorError):
            report_request(enrollment(), "http://mdm.example.org/", b"")
