"""The ACME client: obtains an identity for a key of this Mac. Source: RFC 8555; `agent.pki.acme.client` decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.device.mac import Device
from agent.faults.decisions import Hit
from agent.mdm.checkin import user_agent
from agent.mdm.pages import page_in
from agent.mdm.waits import bounded_wait
from agent.net.http.fetch import ConnectionTo, Exchanger, ask, retry_after
from agent.net.mac.enrollment import hints
from agent.net.mac.faults.attesting import attest_acme_key
from agent.net.mac.fleet.environment import Environment
from agent.net.timing import Clock, sleep
from agent.pki.acme.attestation import attestation_answer, freshness_code
from agent.pki.acme.client import Challenge, Request, Response, Wait, Wanted, certificate_steps
from agent.pki.acme.csr import build_csr
from agent.pki.acme.errors import ACMEError, ACMEProblem
from agent.pki.acme.jws import CONTENT_TYPE
from agent.pki.identity import Identity, PrivateKey
from agent.profiles.acme import CURVES, ACMEPayload

Attest = Callable[[str], tuple[bytes, ...]]
"""Returns the chain that attests the key for a challenge's token; empty where the Mac attests nothing."""


class OrderTimedOut(ACMEError):
    """The server had not decided when the time limit was over."""

    timed_out = True


async def identity_by_acme(
    device: Device,
    environment: Environment,
    connection_to: ConnectionTo,
    payload: ACMEPayload,
    rsa_key: rsa.RSAPrivateKey | None,
    exchanger_of: Callable[[Hit | None, str], Exchanger | None],
    polling_limit: float,
) -> Identity:
    """Obtain the identity of an ACME payload for a Mac: with ``rsa_key``, or with a new key on the payload's curve.

    ``exchanger_of`` has the hit of the first request, and the operation. Raises PeerError.
    """
    key: PrivateKey = rsa_key or ec.generate_private_key(CURVES[payload.key_size]())
    falsifying: Hit | None = None

    def attest(token: str) -> tuple[bytes, ...]:
        nonlocal falsifying
        if not payload.attest:
            return ()
        chain, falsifying = attest_acme_key(device, environment, key.public_key(), freshness_code(token))
        return chain

    def exchanger(operation: str) -> Exchanger | None:
        return exchanger_of(falsifying if operation == "challenge" else None, operation)

    agent = user_agent(device.mac.os_version)
    return await obtain_identity(
        environment.clock, connection_to, payload, key, attest, exchanger, polling_limit, agent
    )


async def obtain_identity(
    clock: Clock,
    connection_to: ConnectionTo,
    payload: ACMEPayload,
    key: PrivateKey,
    attest: Attest,
    exchanger_of: Callable[[str], Exchanger | None],
    polling_limit: float,
    agent: str,
) -> Identity:
    """Order a certificate for ``key`` from the server of an ACME payload. Raises PeerError.

    ``exchanger_of`` returns what sends the request of an operation, as in ``ask``; ``agent`` is its User-Agent. The
    server is waited for during ``polling_limit`` seconds at most. The account's key is new: a Mac orders once for each
    payload.
    """
    csr = build_csr(
        key,
        payload.client_identifier,
        payload.subject,
        subject_alt_name=payload.subject_alt_name,
        key_usage=payload.usage_flags,
        extended_key_usage=payload.extended_key_usage,
    )
    account_key = ec.generate_private_key(ec.SECP256R1())
    steps = certificate_steps(payload.directory_url, account_key, Wanted(payload.client_identifier, csr))
    deadline = clock.seconds() + polling_limit
    answer: Response | dict[str, str] | None = None
    try:
        while True:
            match steps.send(answer):
                case Request() as request:
                    answer = await _send(connection_to, request, exchanger_of(request.operation), agent)
                case Challenge(token=token):
                    answer = attestation_answer(attest(token))
                case Wait(seconds):
                    answer = None
                    await sleep(clock, max(0.0, min(bounded_wait(seconds), deadline - clock.seconds())))
                    if clock.seconds() >= deadline:
                        raise OrderTimedOut(
                            f"the ACME server has not decided after {polling_limit:g} s, the time limit"
                        )
    except StopIteration as end:
        certificate, *others = end.value
    except ACMEProblem as problem:
        hint = hints.ACME.get(problem.type, "")
        raise ACMEProblem(problem.type, hints.with_hint(str(problem), hint), problem.status) from problem
    chain = tuple(link for link in others if link != certificate and link.subject != link.issuer)
    return Identity(certificate, key, chain)


async def _send(connection_to: ConnectionTo, request: Request, exchanger: Exchanger | None, agent: str) -> Response:
    headers: Mapping[str, Any] = {"User-Agent": agent, "Accept": "*/*"}
    if request.body is not None:
        headers = {**headers, "Content-Type": CONTENT_TYPE}
    response = await ask(connection_to, request.method, request.url, headers, request.body, exchanger=exchanger)
    page = page_in(response.body, response.headers.get("content-type", ""))
    if page:
        raise ACMEError(
            f"Expected an ACME server's answer to {request.operation}, found {page} (status {response.status}). "
            "Check that the payload's DirectoryURL leads to the ACME server, and not to a login page or a proxy."
        )
    return Response(response.status, response.headers, response.body, retry_after(response))
