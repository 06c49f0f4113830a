"""Our client with Pebble, a test server by Let's Encrypt (Debian package pebble): RFC 8555 apart from attestations."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HTTPRequest
from urllib.request import urlopen

import pytest
from acme_parties import KEY
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from debian import need

from agent.pki.acme.client import Challenge, Request, Response, Wait, Wanted, certificate_steps
from agent.pki.acme.errors import ACMEProblem
from agent.pki.acme.jws import CONTENT_TYPE
from agent.pki.issuing.authorities import Authorities
from agent.pki.pem import certificate_pem, key_pem

pytestmark = pytest.mark.slow
NAME = "mac.example"
SECONDS = 60.0
REFUSED_NONCES = "10"  # per cent: a request is tried six times


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The URL of a Pebble's directory, and what trusts it."""
    command = need("pebble", "pebble")
    folder = tmp_path_factory.mktemp("pebble")
    authorities = Authorities()
    identity = authorities.server_identity(["127.0.0.1"])
    (folder / "cert.pem").write_bytes(certificate_pem(identity.certificate))
    (folder / "key.pem").write_bytes(key_pem(identity.key))
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, other)]
    content = {
        "listenAddress": f"127.0.0.1:{ports[0]}",
        "managementListenAddress": f"127.0.0.1:{ports[1]}",
        "certificate": str(folder / "cert.pem"),
        "privateKey": str(folder / "key.pem"),
    }
    (folder / "config.json").write_text(json.dumps({"pebble": content}))
    settings = {
        "PEBBLE_VA_ALWAYS_VALID": "1",
        "PEBBLE_VA_NOSLEEP": "1",
        "PEBBLE_WFE_NONCEREJECT": REFUSED_NONCES,
    }
    log = folder / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [command, "-config", str(folder / "config.json")], env={**os.environ, **settings}, stdout=file, stderr=file
        )
    try:
        listens(server, ports[0], log)
        yield f"https://127.0.0.1:{ports[0]}/dir", trusting(authorities, folder)
    finally:
        server.terminate()
        server.wait()


def listens(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"pebble does not listen on port {port}; it logged: {log.read_text()!r}")


def trusting(authorities: Authorities, folder: Path) -> ssl.SSLContext:
    (folder / "ca.pem").write_bytes(certificate_pem(authorities.anchor))
    return ssl.create_default_context(cafile=folder / "ca.pem")


def sent(request: Request, context: ssl.SSLContext) -> Response:
    headers = {} if request.body is None else {"Content-Type": CONTENT_TYPE}
    question = HTTPRequest(request.url, request.body, headers, method=request.method)
    try:
        with urlopen(question, context=context, timeout=SECONDS) as response:
            status, found, body = response.status, response.headers, response.read()
    except HTTPError as error:
        status, found, body = error.code, error.headers, error.read()
    return Response(status, {name.lower(): value for name, value in found.items()}, body)


def csr(name: str) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(KEY, hashes.SHA384()).public_bytes(Encoding.DER)


def ordered(pebble: tuple[str, ssl.SSLContext], wanted: Wanted, curve: type[ec.EllipticCurve]) -> tuple[Any, list[int]]:
    """The certificates of an order, and the statuses of the responses."""
    directory, context = pebble
    statuses: list[int] = []
    steps = certificate_steps(directory, ec.generate_private_key(curve()), wanted)
    answer: Any = None
    try:
        while True:
            match steps.send(answer):
                case Request() as request:
                    answer = sent(request, context)
                    statuses.append(answer.status)
                case Challenge():
                    answer = {}
                case Wait():
                    answer = None
                    time.sleep(0.05)
    except StopIteration as end:
        return end.value, statuses


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_pebble_issues_a_certificate(pebble: tuple[str, ssl.SSLContext], curve: type[ec.EllipticCurve]) -> None:
    wanted = Wanted(NAME, csr(NAME), "dns", "http-01")
    chain, statuses = ordered(pebble, wanted, curve)
    assert chain[0].public_key() == KEY.public_key()
    assert chain[0].issuer == chain[1].subject
    assert 201 in statuses


def test_pebble_refuses_another_name(pebble: tuple[str, ssl.SSLContext]) -> None:
    with pytest.raises(ACMEProblem, match="finalize with 4"):
        ordered(pebble, Wanted(NAME, csr("other.example"), "dns", "http-01"), ec.SECP256R1)
