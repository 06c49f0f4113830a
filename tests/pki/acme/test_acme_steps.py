"""The client's steps against the lab's server in memory, and against servers that break the protocol."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from acme_parties import AUTHORITIES, KEY, SERIAL, URL, asked, driven, service, wanted, with_json
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import PeerError
from agent.lab.enrollment.acme import ACMEService
from agent.pki.acme.attestation import freshness_code
from agent.pki.acme.client import MAX_POLLS, NONCE_RETRIES, Request, Response, Wanted
from agent.pki.acme.errors import ACMEError, ACMEProblem
from agent.pki.acme.jws import CONTENT_TYPE, sign
from agent.pki.issuing.attestation import SERIAL_NUMBER, Falsified, attestation_authority

NOW = datetime.now(UTC)
BAD_NONCE = json.dumps({"type": "urn:ietf:params:acme:error:badNonce", "detail": "old"}).encode()


def attest(falsified: Falsified | None = None, key: Any = KEY) -> Callable[[str], tuple[bytes, ...]]:
    properties = {SERIAL_NUMBER: SERIAL.encode()}
    return lambda token: attestation_authority().attest(
        key.public_key(), properties, freshness_code(token), NOW, falsified
    )


def test_an_attested_key_gets_a_certificate_once() -> None:
    server = service()
    order = wanted(server.new_challenge())
    chain = driven(order, lambda request: asked(server, request), attest())
    assert chain[0].public_key() == KEY.public_key()
    assert chain[1] == AUTHORITIES.anchor
    with pytest.raises(ACMEProblem, match="already used") as caught:
        driven(order, lambda request: asked(server, request), attest())
    assert (caught.value.type, caught.value.status) == ("rejectedIdentifier", 403)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_the_account_key_may_be_of_either_curve(curve: type[ec.EllipticCurve]) -> None:
    server = service()
    account_key = ec.generate_private_key(curve())
    assert driven(wanted(server.new_challenge()), lambda request: asked(server, request), account_key=account_key)


@pytest.mark.parametrize("falsified", list(Falsified))
def test_a_falsified_attestation_gets_no_certificate(falsified: Falsified) -> None:
    server = service()
    with pytest.raises(ACMEProblem):
        driven(wanted(server.new_challenge()), lambda request: asked(server, request), attest(falsified))


def test_an_attestation_of_another_key_gets_no_certificate() -> None:
    server = service()
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(ACMEProblem, match="attested key"):
        driven(wanted(server.new_challenge()), lambda request: asked(server, request), attest(key=other))


def test_the_server_refuses_what_is_not_signed_for_it() -> None:
    server, sent = service(), []

    def send(request: Request) -> Response:
        sent.append(request)
        return asked(server, request)

    driven(wanted(server.new_challenge()), send)
    posts = [request for request in sent if request.body]
    for request in posts:  # the nonce is used
        assert json.loads(asked(server, request).body)["type"].endswith("badNonce")
    for request, other in itertools.pairwise(posts):
        moved = Request("x", "POST", other.url, request.body)
        assert asked(server, moved).status in (400, 404)
    nonce = asked(server, Request("newNonce", "GET", f"{URL}/new-nonce")).headers["replay-nonce"]
    header = {"kid": f"{URL}/account/nobody", "nonce": nonce, "url": f"{URL}/new-order"}
    stranger = sign(ec.generate_private_key(ec.SECP256R1()), header, b"{}")
    refused = asked(server, Request("newOrder", "POST", f"{URL}/new-order", stranger))
    assert json.loads(refused.body)["type"].endswith("accountDoesNotExist")


@given(st.sampled_from(["new-account", "new-order", "order/x", "finalize/", "nothing"]), st.binary(max_size=100))
def test_the_server_survives_any_body(path: str, body: bytes) -> None:
    server = service()
    answer = server.answer("POST", f"/{path}", body, CONTENT_TYPE)
    assert 400 <= answer.status < 500
    assert json.loads(answer.body)["status"] == answer.status


@pytest.mark.parametrize("times", [1, NONCE_RETRIES, NONCE_RETRIES + 1])
def test_a_refused_nonce_is_replaced_a_few_times(times: int) -> None:
    server = service()
    refused = 0

    def send(request: Request) -> Response:
        nonlocal refused
        if request.operation == "newOrder" and refused < times:
            refused += 1
            return Response(400, {"replay-nonce": asked(server, request).headers["replay-nonce"]}, BAD_NONCE)
        return asked(server, request)

    order = wanted(server.new_challenge())
    if times <= NONCE_RETRIES:
        assert driven(order, send)
    else:
        with pytest.raises(ACMEProblem, match="badNonce"):
            driven(order, send)
    assert refused == times


@pytest.mark.parametrize("operation", ["authorization", "order"])
def test_an_undecided_server_is_polled_at_its_pace_and_not_for_ever(operation: str) -> None:
    def run(undecided: int) -> list[float]:
        server, waits, seen = service(), [], 0

        def send(request: Request) -> Response:
            nonlocal seen
            response = asked(server, request)
            if request.operation == operation and "valid" in json.loads(response.body)["status"]:
                seen += 1
                if seen <= undecided:
                    return Response(200, response.headers, with_json(response, status="processing").body, 7.0)
            if request.operation == "finalize" and operation == "order":
                return with_json(response, status="processing")
            return response

        driven(wanted(server.new_challenge()), send, waits=waits)
        return waits

    assert run(3) == [7.0] * 3
    with pytest.raises(ACMEError, match=f"after {MAX_POLLS} requests"):
        run(MAX_POLLS)


def another_certificate() -> bytes:
    return AUTHORITIES.mdm_identity().certificate.public_bytes(Encoding.PEM)


def replaced(**changes: Any) -> Callable[[Response], Response]:
    return lambda response: with_json(response, **changes)


def with_body(body: bytes) -> Callable[[Response], Response]:
    return lambda response: Response(response.status, response.headers, body)


def without(header: str) -> Callable[[Response], Response]:
    return lambda response: Response(
        response.status, {name: value for name, value in response.headers.items() if name != header}, response.body
    )


CHALLENGE = {"type": "device-attest-01", "url": f"{URL}/x", "token": "t"}
BROKEN: list[tuple[str, Callable[[Response], Response], str]] = [
    ("directory", with_body(b"[]"), "the directory"),
    ("directory", replaced(newNonce=None), "newNonce"),
    ("directory", replaced(newAccount="http://acme.test/"), "https URL for newAccount"),
    ("directory", replaced(newOrder="https://[::1/"), "https URL for newOrder"),
    ("directory", replaced(newOrder="https://a/" + "x" * 3000), "newOrder"),
    ("directory", replaced(newOrder="https://a/\r\nX: y"), "newOrder"),
    ("directory", lambda _: Response(500, {}, b"<html>"), "answered directory with 500"),
    ("newNonce", without("replay-nonce"), "Replay-Nonce"),
    ("newNonce", lambda _: Response(503, {}), "answered newNonce with 503"),
    ("newAccount", without("location"), "Location of the account"),
    ("newOrder", without("location"), "Location of the order"),
    ("newOrder", replaced(authorizations="x"), "authorizations"),
    ("newOrder", replaced(authorizations=[f"{URL}/x"] * 9), "authorizations"),
    ("newOrder", with_body(b"\xff"), "the order"),
    ("authorization", replaced(challenges=[]), "expected the challenge device-attest-01"),
    ("authorization", replaced(challenges=[CHALLENGE] * 17), "challenges"),
    ("authorization", replaced(challenges=[{"type": "http-01"}, 5]), "http-01"),
    ("authorization", replaced(challenges=[{**CHALLENGE, "token": 5}]), "token"),
    ("authorization", replaced(challenges=[{**CHALLENGE, "url": None}]), "url of the challenge"),
    ("authorization", replaced(status="revoked"), "revoked"),
    ("authorization", replaced(status=[1]), "valid"),
    ("order", replaced(status="invalid", error={"type": "urn:ietf:params:acme:error:x", "detail": "why"}), "x: why"),
    ("order", replaced(finalize=5), "finalize"),
    ("finalize", replaced(status="valid", certificate=None), "certificate of the order"),
    ("certificate", with_body(b""), "certificates in PEM"),
    ("certificate", lambda response: with_body(response.body * 5)(response), "1 to 8 certificates"),
    ("certificate", lambda response: with_body(another_certificate())(response), "another key"),
    ("certificate", with_body(b"-----BEGIN CERTIFICATE-----\n" * 4000), "at most"),
]


@pytest.mark.parametrize(("operation", "broken", "message"), BROKEN)
def test_a_server_that_breaks_the_protocol_is_refused(
    operation: str, broken: Callable[[Response], Response], message: str
) -> None:
    server: ACMEService = service()

    def send(request: Request) -> Response:
        response = asked(server, request)
        return broken(response) if request.operation == operation else response

    with pytest.raises(ACMEError, match=message):
        driven(wanted(server.new_challenge()), send)


@given(st.lists(st.tuples(st.integers(100, 599), st.binary(max_size=60)), max_size=12), st.integers(0, 9))
def test_any_response_ends_in_an_error_of_ours(responses: list[tuple[int, bytes]], good: int) -> None:
    server, left = service(), list(responses)
    sent = 0

    def send(request: Request) -> Response:
        nonlocal sent
        sent += 1
        response = asked(server, request)
        if sent <= good or not left:
            return response
        status, body = left.pop()
        return Response(status, response.headers, body)

    order: Wanted = wanted(server.new_challenge())
    with suppress(PeerError):
        driven(order, send)
    assert sent < 200
