"""The SCEP client: obtains an identity for a key with three requests to the CA. Source: RFC 8894."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from math import inf
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.mdm.checkin import USER_AGENT
from agent.mdm.pages import page_in
from agent.net.http.fetch import ConnectionTo, Exchanger, ask
from agent.net.http.http1 import Response
from agent.net.mac.enrollment import hints
from agent.net.timing import Clock, sleep
from agent.pki.identity import Identity
from agent.pki.scep.cacert import CACertificates, check_fingerprint, parse_ca_certificates
from agent.pki.scep.caps import Capabilities, parse_caps
from agent.pki.scep.client import Granted, build_pki_message, parse_cert_rep, transaction_id
from agent.pki.scep.csr import build_csr
from agent.pki.scep.errors import SCEPError, SCEPFailure
from agent.pki.scep.messages import MessageType, to_query
from agent.profiles.scep import SCEPPayload

_NONCE_BYTES = 16


class StillPending(SCEPError):
    """The CA still answered PENDING after the retries that the payload allows."""


class PollingTimedOut(StillPending):
    """The CA still answered PENDING when the time limit was over."""

    timed_out = True


async def obtain_identity(
    clock: Clock,
    connection_to: ConnectionTo,
    payload: SCEPPayload,
    key: rsa.RSAPrivateKey,
    exchanger: Exchanger | None = None,
    polling_limit: float = inf,
    agent: str = USER_AGENT,
) -> Identity:
    """Enroll ``key`` with the CA of a SCEP payload. Raises SCEPError, or PeerError if the CA cannot be reached.

    ``exchanger`` is as in ``ask``. A CA that answers PENDING is polled for ``polling_limit`` seconds at most.
    """
    client = _Client(connection_to, payload.url, exchanger, agent)
    caps = await client.capabilities(payload.ca_name)
    ca = await client.ca_certificates(payload.ca_name)
    if payload.ca_fingerprint is not None:
        check_fingerprint(ca, payload.ca_fingerprint)
    csr = build_csr(
        key,
        payload.subject,
        subject_alt_name=payload.subject_alt_name,
        challenge=payload.challenge,
        key_usage=payload.key_usage,
    )
    try:
        granted = await client.enroll(clock, csr, key, ca, caps, payload, polling_limit)
    except SCEPFailure as failure:
        hint = "" if failure.fail_info is None else hints.SCEP[failure.fail_info]
        raise SCEPFailure(failure.fail_info, hints.with_hint(str(failure), hint)) from failure
    chain = tuple(link for link in granted.certificates if link != granted.certificate and not _self_issued(link))
    return Identity(granted.certificate, key, chain)


class _Client:
    """The three SCEP operations at one URL."""

    def __init__(self, connection_to: ConnectionTo, url: str, exchanger: Exchanger | None, agent: str) -> None:
        self._connection_to = connection_to
        self._exchanger = exchanger
        self._url = url
        self._headers = {"User-Agent": agent, "Accept": "*/*"}

    async def capabilities(self, ca_name: str) -> Capabilities:
        """GetCACaps. A CA that does not support it has no capabilities (RFC 8894, 3.5.2)."""
        response = await self._get("GetCACaps", quote(ca_name, safe=""))
        if response.status != 200:
            return parse_caps(b"")
        _check_answer("GetCACaps", response)
        return parse_caps(response.body)

    async def ca_certificates(self, ca_name: str) -> CACertificates:
        """GetCACert."""
        response = await self._get("GetCACert", quote(ca_name, safe=""))
        _check_answer("GetCACert", response)
        return parse_ca_certificates(response.body)

    async def enroll(
        self,
        clock: Clock,
        csr: bytes,
        key: rsa.RSAPrivateKey,
        ca: CACertificates,
        caps: Capabilities,
        payload: SCEPPayload,
        polling_limit: float,
    ) -> Granted:
        """PKIOperation, repeated while the CA answers PENDING and the payload allows a retry.

        Source: apple-schema profiles/com.apple.security.scep.yaml, RetryDelay: the first retry has no delay.
        """
        transaction = transaction_id(key.public_key())
        message_type = MessageType.PKCS_REQ
        deadline = inf
        for attempt in range(payload.retries + 1):
            if attempt > 1:
                await sleep(clock, max(0.0, min(payload.retry_delay, deadline - clock.seconds())))
            if clock.seconds() >= deadline:
                raise PollingTimedOut(f"the CA still answers PENDING after {polling_limit:g} s, the time limit")
            nonce = secrets.token_bytes(_NONCE_BYTES)
            message = build_pki_message(
                csr, key, ca, caps, transaction, nonce, now=datetime.now(UTC), message_type=message_type
            )
            response = await self._operate(message, caps)
            _check_answer("PKIOperation", response)
            answer = parse_cert_rep(response.body, csr, key, ca, transaction, nonce)
            if isinstance(answer, Granted):
                return answer
            message_type = MessageType.CERT_POLL
            deadline = min(deadline, clock.seconds() + polling_limit)
        raise StillPending(f"the CA still answers PENDING after {payload.retries} retries")

    async def _operate(self, message: bytes, caps: Capabilities) -> Response:
        if not caps.post:
            return await self._get("PKIOperation", quote(to_query(message), safe="+/"))
        headers = {**self._headers, "Content-Type": "application/x-pki-message"}
        url = self._with_query("operation=PKIOperation")
        return await ask(self._connection_to, "POST", url, headers, message, plain=True, exchanger=self._exchanger)

    async def _get(self, operation: str, message: str) -> Response:
        """GET with a query as macOS writes it (observed): ``message`` is present even if empty.

        ``message`` is percent-encoded already: in base64 only the padding is, plus signs are not.
        """
        query = f"operation={operation}&message={message}"
        url = self._with_query(query)
        return await ask(self._connection_to, "GET", url, self._headers, plain=True, exchanger=self._exchanger)

    def _with_query(self, query: str) -> str:
        separator = "&" if urlsplit(self._url).query else "?"
        return f"{self._url}{separator}{query}"


def _check_answer(operation: str, response: Response) -> None:
    page = page_in(response.body, response.headers.get("content-type", ""))
    if page:
        raise SCEPError(
            f"Expected a SCEP CA's answer to {operation}, found {page} (status {response.status}). "
            "Check that the payload's URL leads to the CA, and not to a login page or a proxy."
        )
    if response.status != 200:
        text = response.body[:200].decode("utf-8", "replace").strip()
        sentence = f"the CA answered {operation} with {response.status} instead of 200" + (f": {text}" if text else "")
        raise SCEPError(hints.with_hint(sentence, hints.of_scep_status(response.status)))


def _self_issued(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer
