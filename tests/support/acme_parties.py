"""Both sides of ACME in memory: the client's steps, driven by a function that answers each request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.lab.enrollment.acme import ACMEService
from agent.pki.acme.attestation import attestation_answer
from agent.pki.acme.client import Challenge, Request, Response, Wait, Wanted, certificate_steps
from agent.pki.acme.csr import build_csr
from agent.pki.acme.jws import CONTENT_TYPE
from agent.pki.issuing.authorities import Authorities

URL = "https://acme.test/acme"
SERIAL = "C02ZX0AAAAAA"
AUTHORITIES = Authorities()
KEY = ec.generate_private_key(ec.SECP384R1())
ACCOUNT_KEY = ec.generate_private_key(ec.SECP256R1())

Send = Callable[[Request], Response]


def service() -> ACMEService:
    """A server at URL."""
    made = ACMEService(AUTHORITIES)
    made.url = URL
    return made


def asked(server: ACMEService, request: Request) -> Response:
    """The server's response to a request of the client."""
    path = request.url.removeprefix(URL)
    answer = server.answer(request.method, path, request.body or b"", CONTENT_TYPE if request.body else "")
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status, headers | {"content-type": answer.content_type}, answer.body)


def wanted(identifier: str, **keys: Any) -> Wanted:
    """An order of KEY for a Mac with SERIAL."""
    return Wanted(identifier, build_csr(KEY, identifier, [[["CN", SERIAL]]], key_usage=5), **keys)


def driven(
    order: Wanted,
    send: Send,
    attest: Callable[[str], tuple[bytes, ...]] = lambda _: (),
    *,
    account_key: ec.EllipticCurvePrivateKey = ACCOUNT_KEY,
    waits: list[float] | None = None,
) -> tuple[x509.Certificate, ...]:
    """The certificates that the client obtains. Raises PeerError."""
    steps = certificate_steps(f"{URL}/directory", account_key, order)
    answer: Any = None
    try:
        while True:
            match steps.send(answer):
                case Request() as request:
                    answer = send(request)
                case Challenge(token=token):
                    answer = attestation_answer(attest(token))
                case Wait(seconds):
                    answer = None
                    if waits is not None:
                        waits.append(seconds)
    except StopIteration as end:
        found: tuple[x509.Certificate, ...] = end.value
        return found


def with_json(response: Response, **changes: Any) -> Response:
    """The response with other values in its JSON object; None removes one."""
    content = {name: value for name, value in (json.loads(response.body) | changes).items() if value is not None}
    return Response(response.status, response.headers, json.dumps(content).encode(), response.retry_after)
