"""The SCEP client, over real HTTP, with CAs that answer PENDING, refuse, or do not match the profile."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from conftest import RunInReactor
from rsa_keys import rsa_key
from scep_pending import cert_rep_pending
from stack import scep_authority
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site

from agent.net.http.connection import HTTPConnection
from agent.net.http.fetch import Connections
from agent.net.http.http1 import Origin
from agent.net.mac.enrollment import hints
from agent.net.mac.enrollment.scep import PollingTimedOut, StillPending, obtain_identity
from agent.net.transport.errors import ConnectFailed
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.pki.scep.ca import cert_rep_failure, cert_rep_success, read_request
from agent.pki.scep.cacert import render_ca_certificates
from agent.pki.scep.caps import LAB_CAPABILITIES, render_caps
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure
from agent.pki.scep.messages import PKIMessage, from_query, open_message
from agent.profiles.scep import SCEPPayload

AUTHORITIES = Authorities({"scep": scep_authority()})
CA = AUTHORITIES.scep.identity
KEY = rsa_key()


@dataclass
class Behaviour:
    """How the CA behaves, and what it was asked."""

    pending: int = 0
    fail: FailInfo | None = None
    caps: bytes = render_caps(LAB_CAPABILITIES)
    caps_status: int = 200
    operation_status: int = 200
    page_at: str = ""  # the operation that is answered with an HTML page
    asked: list[tuple[str, str]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    _csr: Any = None

    def answer(self, message: PKIMessage) -> bytes:
        """What becomes of a request."""
        nonce = secrets.token_bytes(16)
        if self.fail is not None:
            return cert_rep_failure(message, CA, nonce, self.fail, "not today")
        request = read_request(message, CA)
        self._csr = request.csr or self._csr
        if self.pending:
            self.pending -= 1
            return cert_rep_pending(message, CA, nonce)
        return cert_rep_success(request, CA, nonce, AUTHORITIES.issue_for(self._csr))


class Service(Resource):
    """SCEP by Twisted's web server."""

    isLeaf = True

    def __init__(self, ca: Behaviour) -> None:
        super().__init__()
        self._ca = ca

    def render(self, request: Any) -> bytes:
        operation = request.args[b"operation"][0].decode()
        ca = self._ca
        ca.targets.append(request.uri.decode())
        if operation == ca.page_at:
            request.setResponseCode(ca.operation_status)
            return b"<!doctype html><title>Sign in</title>"
        if operation == "GetCACaps":
            ca.asked.append((request.method.decode(), operation))
            request.setResponseCode(ca.caps_status)
            return ca.caps
        if operation == "GetCACert":
            ca.asked.append((request.method.decode(), operation))
            content_type, body = render_ca_certificates([CA.certificate])
            request.setHeader(b"content-type", content_type.encode())
            return body
        posted = request.method == b"POST"
        octets = request.content.read() if posted else from_query(request.args[b"message"][0].decode())
        message = open_message(octets)
        ca.asked.append((request.method.decode(), message.header.message_type.name))
        request.setResponseCode(ca.operation_status)
        return ca.answer(message)


def payload(url: str, **keys: Any) -> SCEPPayload:
    usual: dict[str, Any] = {
        "payload_name": "identity",
        "url": url,
        "ca_name": "the CA",
        "subject": [[["CN", "a Mac"]]],
        "subject_alt_name": None,
        "challenge": "secret",
        "key_size": 2048,
        "key_usage": 5,
        "ca_fingerprint": None,
        "retries": 3,
        "retry_delay": 0,
    }
    return SCEPPayload(**{**usual, **keys})


async def enroll(ca: Behaviour, polling_limit: float = inf, **keys: Any) -> Identity:
    """Run the CA and get an identity from it."""
    port = reactor.listenTCP(0, Site(Service(ca)), interface="127.0.0.1")
    connections = Connections(connection_to)
    try:
        url = keys.pop("url", f"http://127.0.0.1:{port.getHost().port}/scep?ca=1")
        return await obtain_identity(reactor, connections, payload(url, **keys), KEY, None, polling_limit)
    finally:
        connections.close()
        await port.stopListening()


def connection_to(origin: Origin) -> HTTPConnection:
    return HTTPConnection(reactor, Resolver(reactor, None), TLSContexts(), origin, (), None)


def fails_with(run_in_reactor: RunInReactor, kind: type[Exception], work: Callable[[], Awaitable[Identity]]) -> str:
    async def scenario() -> str:
        with pytest.raises(kind) as caught:
            await work()
        return str(caught.value)

    text: str = run_in_reactor(scenario())
    return text


def test_a_certificate_comes_by_post(run_in_reactor: RunInReactor) -> None:
    ca = Behaviour()
    identity = run_in_reactor(enroll(ca))
    assert identity.certificate.public_key() == KEY.public_key()
    assert identity.certificate.subject.rfc4514_string() == "CN=a Mac"
    assert ca.asked == [("GET", "GetCACaps"), ("GET", "GetCACert"), ("POST", "PKCS_REQ")]


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_ca_without_capabilities_is_asked_by_get(run_in_reactor: RunInReactor, status: int) -> None:
    ca = Behaviour(caps=b"nothing known\n", caps_status=status)
    identity = run_in_reactor(enroll(ca))
    assert identity.certificate.public_key() == KEY.public_key()
    assert ca.asked[-1] == ("GET", "PKCS_REQ")


PAGES = [("GetCACaps", 200), ("GetCACert", 200), ("GetCACert", 403), ("PKIOperation", 200), ("PKIOperation", 403)]


@pytest.mark.parametrize(("operation", "status"), PAGES)
def test_page_instead_of_a_ca_is_reported_as_a_page(run_in_reactor: RunInReactor, operation: str, status: int) -> None:
    ca = Behaviour(page_at=operation, operation_status=status)
    text = fails_with(run_in_reactor, SCEPError, lambda: enroll(ca))
    assert text == (
        f"Expected a SCEP CA's answer to {operation}, found an HTML page titled “Sign in” (status {status}). "
        "Check that the payload's URL leads to the CA, and not to a login page or a proxy."
    )


@pytest.mark.parametrize(("name", "message"), [("", ""), ("the CA/1+=", "the%20CA%2F1%2B%3D")])
def test_the_message_is_always_there_as_macos_writes_it(run_in_reactor: RunInReactor, name: str, message: str) -> None:
    ca = Behaviour()
    run_in_reactor(enroll(ca, ca_name=name))
    assert ca.targets == [
        f"/scep?ca=1&operation=GetCACaps&message={message}",
        f"/scep?ca=1&operation=GetCACert&message={message}",
        "/scep?ca=1&operation=PKIOperation",
    ]


def test_of_a_message_by_get_the_padding_alone_is_escaped(run_in_reactor: RunInReactor) -> None:
    escaped = set()
    for number in range(3):  # blocks of the cipher more; of three lengths one after another two have padding
        ca = Behaviour(caps=b"")
        run_in_reactor(enroll(ca, challenge="secret" + "x" * 8 * number, retries=0))
        message = ca.targets[-1].partition("&message=")[2]
        assert len(message) > 1000
        assert {"+", "/"} <= set(message)  # of thousands of characters some are
        escaped |= set(re.findall("%..", message))
        assert set(message.replace("%3D", "")) <= set(string.ascii_letters + string.digits + "+/")
    assert escaped == {"%3D"}


def test_a_ca_that_makes_it_wait_is_polled(run_in_reactor: RunInReactor) -> None:
    ca = Behaviour(pending=2)
    identity = run_in_reactor(enroll(ca))
    assert identity.certificate.public_key() == KEY.public_key()
    assert [what for _method, what in ca.asked[2:]] == ["PKCS_REQ", "CERT_POLL", "CERT_POLL"]


def test_waiting_ends_with_the_retries_of_the_payload(run_in_reactor: RunInReactor) -> None:
    ca = Behaviour(pending=10)
    text = fails_with(run_in_reactor, StillPending, lambda: enroll(ca, retries=2))
    assert "2 retries" in text
    assert [what for _method, what in ca.asked[2:]] == ["PKCS_REQ", "CERT_POLL", "CERT_POLL"]


def test_a_ca_that_never_decides_is_polled_until_the_time_limit(run_in_reactor: RunInReactor) -> None:
    ca = Behaviour(pending=1000)
    text = fails_with(run_in_reactor, PollingTimedOut, lambda: enroll(ca, 1.5, retries=1000, retry_delay=1.0))
    assert text == "the CA still answers PENDING after 1.5 s, the time limit"
    assert PollingTimedOut.timed_out
    polls = [what for _method, what in ca.asked[2:]]
    assert polls == ["PKCS_REQ"] + ["CERT_POLL"] * (len(polls) - 1)
    assert len(polls) <= 3, "at once, without a delay, and after a second"


def test_a_delay_that_is_longer_than_the_time_limit_ends_with_it(run_in_reactor: RunInReactor) -> None:
    ca = Behaviour(pending=1000)
    fails_with(run_in_reactor, PollingTimedOut, lambda: enroll(ca, 0.5, retries=1000, retry_delay=3600.0))
    assert len(ca.asked) <= 4


@pytest.mark.parametrize("fail_info", list(FailInfo))
def test_refusal_is_reported_with_its_fail_info(run_in_reactor: RunInReactor, fail_info: FailInfo) -> None:
    text = fails_with(run_in_reactor, SCEPFailure, lambda: enroll(Behaviour(fail=fail_info)))
    assert str(fail_info) in text
    assert "not today" in text
    assert hints.SCEP[fail_info] in text


def test_a_known_name_and_a_wrong_challenge_are_hinted_at(run_in_reactor: RunInReactor) -> None:
    text = fails_with(run_in_reactor, SCEPFailure, lambda: enroll(Behaviour(fail=FailInfo.BAD_REQUEST)))
    assert "Challenge" in text
    assert "another fleet.seed" in text


def test_a_scep_url_that_is_not_there_is_hinted_at(run_in_reactor: RunInReactor) -> None:
    text = fails_with(run_in_reactor, SCEPError, lambda: enroll(Behaviour(operation_status=404)))
    assert "Look at URL in the SCEP payload" in text


def test_ca_with_another_fingerprint_gets_no_request(run_in_reactor: RunInReactor) -> None:
    ca = Behaviour()
    fails_with(run_in_reactor, SCEPError, lambda: enroll(ca, ca_fingerprint=bytes(32)))
    assert [what for _method, what in ca.asked] == ["GetCACaps", "GetCACert"]


def test_http_error_is_reported(run_in_reactor: RunInReactor) -> None:
    text = fails_with(run_in_reactor, SCEPError, lambda: enroll(Behaviour(operation_status=503)))
    assert "503" in text


def test_a_ca_that_is_not_there_is_a_matter_of_the_network(run_in_reactor: RunInReactor) -> None:
    text = fails_with(run_in_reactor, ConnectFailed, lambda: enroll(Behaviour(), url="http://127.0.0.1:1/scep"))
    assert "refused" in text
