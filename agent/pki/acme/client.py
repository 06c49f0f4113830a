"""The client's steps to a certificate by ACME, as a generator without I/O. Source: RFC 8555, 7.

It yields a Request, a Wait, or a Challenge, and is sent the Response, None, or the answer to the challenge. What the
server sends is bounded; a server that refuses each nonce, or never decides, ends the steps with an error.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.pki.acme.attestation import CHALLENGE, PERMANENT_IDENTIFIER
from agent.pki.acme.errors import ACMEError, ACMEProblem
from agent.pki.acme.jws import MAX_BYTES, encode_base64url, jwk_of, load_object, sign
from agent.pki.certificates import CertificateError, read_pem

NONCE_RETRIES = 5  # of one request after badNonce (RFC 8555, 6.5); ours
MAX_POLLS = 30  # of one authorization or order; ours
MAX_AUTHORIZATIONS = 8  # of one order: a Mac asks for one identifier
MAX_CHALLENGES = 16  # of one authorization
MAX_CHAIN = 8  # certificates
DEFAULT_POLL_SECONDS = 1.0  # where the server sends no Retry-After; ours
_MAX_URL = 2048  # characters
_MAX_TEXT = 1024  # characters of a token, a nonce or a problem's detail
_PROBLEMS = "urn:ietf:params:acme:error:"


class Request(msgspec.Struct, frozen=True):
    """Send this HTTP request. ``operation`` is the resource (RFC 8555, 7.1), such as ``newOrder``."""

    operation: str
    method: str
    url: str
    body: bytes | None = None


class Response(msgspec.Struct, frozen=True):
    """The HTTP response to a Request."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = b""
    retry_after: float | None = None
    """Seconds of Retry-After."""


class Wait(msgspec.Struct, frozen=True):
    """Wait this many seconds, which the server chose, before the next request. The caller bounds it."""

    seconds: float


class Challenge(msgspec.Struct, frozen=True):
    """Answer this challenge: the caller sends the object that the client POSTs."""

    type: str
    """Such as ``device-attest-01``."""
    token: str


Answer = Any  # Response, None or the answer to a Challenge, after what was yielded
CertificateSteps = Generator[Request | Wait | Challenge, Answer, tuple[x509.Certificate, ...]]
_Steps = Generator[Request | Wait | Challenge, Answer, Response]


class Wanted(msgspec.Struct, frozen=True):
    """What a client orders. The defaults are those of a Mac; another client may prove another identifier."""

    identifier: str
    """The value of the order's identifier; of a Mac the ClientIdentifier."""
    csr: bytes
    """The certificate request, DER."""
    identifier_type: str = PERMANENT_IDENTIFIER
    challenge_type: str = CHALLENGE


def certificate_steps(directory_url: str, account_key: ec.EllipticCurvePrivateKey, wanted: Wanted) -> CertificateSteps:
    """Register an account, order a certificate, answer its challenge, and return the chain, the certificate first.

    Raises ACMEError.
    """
    client = _Client(account_key)
    yield from client.open(directory_url)
    order, order_url = yield from client.new_order(wanted)
    for url in _urls(order, "authorizations", MAX_AUTHORIZATIONS):
        yield from client.prove(url, wanted.challenge_type)
    if order.get("status") == "pending":
        order = yield from client.poll(order_url, "order", "pending")
    if order.get("status") == "ready":
        finalize = _url(order.get("finalize"), "finalize of the order")
        response = yield from client.post("finalize", finalize, {"csr": encode_base64url(wanted.csr)})
        order = load_object(response.body, "the finalized order")
    if order.get("status") in ("ready", "processing"):
        order = yield from client.poll(order_url, "order", "ready", "processing")
    if order.get("status") != "valid":
        raise _refused("the order", order)
    response = yield from client.post("certificate", _url(order.get("certificate"), "certificate of the order"), None)
    return _issued(response.body, wanted.csr)


class _Client:
    """The nonce, the account and the directory of one server."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._nonce = ""
        self._new_nonce_url = ""
        self._account = ""
        self._directory: dict[str, Any] = {}

    def open(self, directory_url: str) -> Generator[Request | Wait | Challenge, Answer, None]:
        """Read the directory, and register an account."""
        response: Response = yield Request("directory", "GET", directory_url)
        if response.status != 200:
            raise _problem("directory", response)
        self._directory = load_object(response.body, "the directory")
        self._new_nonce_url = _url(self._directory.get("newNonce"), "newNonce of the directory")
        url = _url(self._directory.get("newAccount"), "newAccount of the directory")
        account = yield from self.post("newAccount", url, {"termsOfServiceAgreed": True})
        self._account = _url(account.headers.get("location"), "the Location of the account")

    def new_order(self, wanted: Wanted) -> Generator[Request | Wait | Challenge, Answer, tuple[dict[str, Any], str]]:
        """Order a certificate; returns the order and its URL."""
        url = _url(self._directory.get("newOrder"), "newOrder of the directory")
        identifier = {"type": wanted.identifier_type, "value": wanted.identifier}
        response = yield from self.post("newOrder", url, {"identifiers": [identifier]})
        order = load_object(response.body, "the order")
        return order, _url(response.headers.get("location"), "the Location of the order")

    def prove(self, url: str, challenge_type: str) -> Generator[Request | Wait | Challenge, Answer, None]:
        """Answer the challenge of an authorization, and wait until the authorization is valid."""
        response = yield from self.post("authorization", url, None)
        authorization = load_object(response.body, "the authorization")
        if authorization.get("status") == "pending":
            challenge = _challenge(authorization, challenge_type)
            answer = yield Challenge(challenge_type, _text(challenge.get("token"), "the token of the challenge"))
            yield from self.post("challenge", _url(challenge.get("url"), "the url of the challenge"), answer)
            authorization = yield from self.poll(url, "authorization", "pending", "processing")
        if authorization.get("status") != "valid":
            raise _refused("the authorization", authorization)

    def poll(
        self, url: str, operation: str, *undecided: str
    ) -> Generator[Request | Wait | Challenge, Answer, dict[str, Any]]:
        """Fetch a resource until its status is none of ``undecided``."""
        for _ in range(MAX_POLLS):
            response = yield from self.post(operation, url, None)
            found = load_object(response.body, f"the {operation}")
            if found.get("status") not in undecided:
                return found
            yield Wait(DEFAULT_POLL_SECONDS if response.retry_after is None else response.retry_after)
        raise ACMEError(f"the {operation} is still {found.get('status')!r:.40} after {MAX_POLLS} requests")

    def post(self, operation: str, url: str, payload: Mapping[str, Any] | None) -> _Steps:
        """POST a signed object, or None for POST-as-GET; after badNonce again with the nonce of the answer."""
        body = b"" if payload is None else json.dumps(payload, separators=(",", ":")).encode()
        retries = 0
        while True:
            if not self._nonce:
                yield from self._fetch_nonce()
            nonce, self._nonce = self._nonce, ""
            key: dict[str, Any] = {"kid": self._account} if self._account else {"jwk": jwk_of(self._key.public_key())}
            request = sign(self._key, {**key, "nonce": nonce, "url": url}, body)
            response: Response = yield Request(operation, "POST", url, request)
            self._keep_nonce(response)
            if 200 <= response.status < 300:
                return response
            problem = _problem(operation, response)
            if problem.type != "badNonce" or retries == NONCE_RETRIES:
                raise problem
            retries += 1

    def _fetch_nonce(self) -> Generator[Request | Wait | Challenge, Answer, None]:
        """newNonce by GET, which RFC 8555, 7.2, allows beside HEAD."""
        response: Response = yield Request("newNonce", "GET", self._new_nonce_url)
        if not 200 <= response.status < 300:
            raise _problem("newNonce", response)
        self._keep_nonce(response)
        if not self._nonce:
            raise ACMEError("expected a Replay-Nonce in the answer to newNonce, found none")

    def _keep_nonce(self, response: Response) -> None:
        nonce = response.headers.get("replay-nonce", "")
        if nonce:
            self._nonce = _text(nonce, "the Replay-Nonce")


def _challenge(authorization: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
    challenges = authorization.get("challenges")
    if not isinstance(challenges, list) or len(challenges) > MAX_CHALLENGES:
        raise ACMEError(f"expected an array of at most {MAX_CHALLENGES} challenges, found {challenges!r:.80}")
    types = []
    for challenge in challenges:
        if isinstance(challenge, dict):
            if challenge.get("type") == wanted:
                return challenge
            types.append(challenge.get("type"))
    raise ACMEError(f"expected the challenge {wanted} in the authorization, found {types!r:.200}")


def _issued(pem: bytes, csr: bytes) -> tuple[x509.Certificate, ...]:
    """The downloaded chain; its first certificate has the key of the request."""
    if len(pem) > MAX_BYTES:
        raise ACMEError(f"expected a certificate chain of at most {MAX_BYTES:,} bytes, found {len(pem):,}")
    try:
        chain = read_pem(pem)
    except CertificateError as error:
        raise ACMEError(f"expected certificates in PEM, found something else: {error}") from error
    if not 0 < len(chain) <= MAX_CHAIN:
        raise ACMEError(f"expected 1 to {MAX_CHAIN} certificates, found {len(chain)}")
    wanted = x509.load_der_x509_csr(csr).public_key()
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if chain[0].public_key().public_bytes(*spki) != wanted.public_bytes(*spki):
        raise ACMEError("expected a certificate for the key of the request, found one for another key")
    return chain


def _problem(operation: str, response: Response) -> ACMEProblem:
    """The error of a response that is not successful."""
    try:
        document = load_object(response.body, "a problem")
    except ACMEError:
        document = {}
    type_ = document.get("type")
    short = type_.removeprefix(_PROBLEMS)[:_MAX_TEXT] if isinstance(type_, str) else ""
    return ACMEProblem(
        short, f"the ACME server answered {operation} with {response.status}{_explained(document)}", response.status
    )


def _refused(what: str, found: Mapping[str, Any]) -> ACMEError:
    """The error of an order or an authorization that is not valid; with the problem of its challenge."""
    documents = [found.get("error")]
    challenges = found.get("challenges")
    if isinstance(challenges, list):
        documents += [each.get("error") for each in challenges[:MAX_CHALLENGES] if isinstance(each, dict)]
    problem = next((each for each in documents if isinstance(each, dict)), {})
    type_ = problem.get("type")
    short = type_.removeprefix(_PROBLEMS)[:_MAX_TEXT] if isinstance(type_, str) else ""
    return ACMEProblem(short, f"expected {what} to be valid, found it {found.get('status')!r:.40}{_explained(problem)}")


def _explained(document: Mapping[str, Any]) -> str:
    """The type and the detail of a problem document, after a colon; empty without them."""
    texts = [document.get("type"), document.get("detail")]
    shown = [text.removeprefix(_PROBLEMS)[:_MAX_TEXT] for text in texts if isinstance(text, str) and text]
    return f": {': '.join(shown)}" if shown else ""


def _urls(found: Mapping[str, Any], key: str, most: int) -> list[str]:
    urls = found.get(key)
    if not isinstance(urls, list) or len(urls) > most:
        raise ACMEError(f"expected an array of at most {most} URLs for {key}, found {urls!r:.80}")
    return [_url(url, f"a URL of {key}") for url in urls]


def _url(value: object, what: str) -> str:
    try:
        usable = isinstance(value, str) and urlsplit(value).scheme == "https" and bool(urlsplit(value).hostname)
    except ValueError:
        usable = False
    if not usable or not isinstance(value, str):
        raise ACMEError(f"expected an https URL for {what}, found {value!r:.200}")
    if len(value) > _MAX_URL or not value.isascii() or not value.isprintable() or " " in value:
        raise ACMEError(f"expected an https URL of at most {_MAX_URL} characters for {what}, found {value!r:.200}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise ACMEError(f"expected a text of at most {_MAX_TEXT} characters for {what}, found {value!r:.80}")
    return value
