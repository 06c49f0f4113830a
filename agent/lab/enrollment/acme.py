"""The lab's ACME server: issues MDM identities to Macs with a client identifier from an enrollment profile. No I/O.

Source: RFC 8555; draft-ietf-acme-device-attest; apple-schema profiles/com.apple.security.acme.yaml. An attestation is
checked where the Mac sends one. The lab also accepts a Mac that cannot make one: it knows the client identifier.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableSet
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from agent.errors import PeerError
from agent.lab.defects import NONE, Defects
from agent.lab.enrollment.attested import Attested, attested_by
from agent.lab.enrollment.challenges import Challenges
from agent.pki.acme.attestation import CHALLENGE, PERMANENT_IDENTIFIER, attestation_in
from agent.pki.acme.errors import ACMEError, ACMEProblem
from agent.pki.acme.jws import (
    CONTENT_TYPE,
    SignedMessage,
    check_signature,
    decode_base64url,
    key_of,
    load_object,
    read_message,
    thumbprint,
)
from agent.pki.certificates import UNREADABLE
from agent.pki.issuing.authorities import Authorities
from agent.pki.scep.csr import CertificateRequest, read_csr

PATH = "/acme"
JSON = "application/json"
PROBLEM = "application/problem+json"
PEM_CHAIN = "application/pem-certificate-chain"
MAX_KEPT = 100_000  # nonces, accounts and orders, of each; the oldest are dropped first
_PROBLEMS = "urn:ietf:params:acme:error:"

KeptT = TypeVar("KeptT")


class ACMEAnswer(msgspec.Struct, frozen=True):
    """The HTTP response."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class _Order(msgspec.Struct):
    account: str
    identifier: str
    token: str
    number: str
    status: str = "pending"
    challenge: str = "pending"
    error: Mapping[str, Any] | None = None
    attested: Attested | None = None
    certificate: bytes = b""
    """PEM."""


def _problem(type_: str, detail: str, status: int = 400) -> ACMEProblem:
    return ACMEProblem(type_, detail, status)


class ACMEService(Challenges):
    """The resources of ACME below ``url``, which is set when the lab listens. The challenges are client identifiers."""

    def __init__(
        self, authorities: Authorities, unused: MutableSet[str] | None = None, defects: Defects = NONE
    ) -> None:
        super().__init__(unused)
        self._defects = defects
        self.url = ""
        self._authorities = authorities
        self._nonces: OrderedDict[str, None] = OrderedDict()
        self._accounts: OrderedDict[str, ec.EllipticCurvePublicKey] = OrderedDict()
        self._orders: OrderedDict[str, _Order] = OrderedDict()

    @property
    def directory_url(self) -> str:
        """DirectoryURL of the payload."""
        return f"{self.url}/directory"

    def answer(self, method: str, path: str, body: bytes, content_type: str) -> ACMEAnswer:
        """Answer one request; ``path`` is below ``url``."""
        try:
            answer = self._answer(method, path, body, content_type)
        except ACMEProblem as problem:
            answer = _refusal(problem)
        except ACMEError as error:
            answer = _refusal(_problem("malformed", str(error)))
        headers = {**answer.headers, "Link": f'<{self.directory_url}>;rel="index"', "Cache-Control": "no-store"}
        if path != "/directory" and not (path == "/new-nonce" and "acme-nonce-none" in self._defects):
            headers["Replay-Nonce"] = self._new_nonce()
        return ACMEAnswer(answer.status, answer.content_type, answer.body, headers)

    def _answer(self, method: str, path: str, body: bytes, content_type: str) -> ACMEAnswer:
        if method in ("GET", "HEAD"):
            if path == "/directory":
                short = "acme-directory-short" in self._defects
                places = {name: place for name, place in _DIRECTORY.items() if not (short and name == "newOrder")}
                return _json(200, {name: f"{self.url}/{place}" for name, place in places.items()})
            if path == "/new-nonce":
                return ACMEAnswer(204 if method == "GET" else 200, JSON, b"")
            raise _problem("malformed", "Expected a POST.", 405)
        if content_type != CONTENT_TYPE:
            raise _problem("malformed", f"Expected the Content-Type {CONTENT_TYPE}, found {content_type[:80]!r}.", 415)
        message = read_message(body)
        account = self._account_of(message, path)
        if path == "/new-account":
            return self._new_account(message)
        if account is None:
            raise _problem("malformed", "Expected the URL of an account as kid, found a jwk.")
        if path == "/new-order":
            return self._new_order(account, message)
        kind, _, number = path[1:].partition("/")
        order = self._orders.get(number)
        if order is None or order.account != account or kind not in _RESOURCES:
            raise _problem("malformed", f"There is nothing at {path[:80]} for this account.", 404)
        return _RESOURCES[kind](self, order, message.payload)

    def _account_of(self, message: SignedMessage, path: str) -> str | None:
        """Check the signature, the URL and the nonce of a request; the number of its account, None for a jwk."""
        header = message.protected
        if ("jwk" in header) == ("kid" in header):
            raise _problem("malformed", "Expected either jwk or kid in the protected header.")
        number = None
        if "jwk" in header:
            key = key_of(header["jwk"])
        else:
            number = str(header["kid"]).removeprefix(f"{self.url}/account/")
            known = self._accounts.get(number)
            if known is None:
                raise _problem("accountDoesNotExist", "There is no account with this kid.")
            key = known
        check_signature(message, key)
        if header.get("url") != self.url + path:
            raise _problem("unauthorized", f"Expected the URL of the request as url, found {header.get('url')!r:.200}.")
        nonce = header.get("nonce")
        if not isinstance(nonce, str) or self._nonces.pop(nonce, self) is self:
            raise _problem("badNonce", "The nonce is unknown or was already used.")
        return number

    def _new_account(self, message: SignedMessage) -> ACMEAnswer:
        key = key_of(message.protected.get("jwk"))
        number = thumbprint(key)
        known = number in self._accounts
        if not known:
            _keep(self._accounts, number, key)
        return _json(200 if known else 201, {"status": "valid"}, {"Location": f"{self.url}/account/{number}"})

    def _new_order(self, account: str, message: SignedMessage) -> ACMEAnswer:
        identifiers = load_object(message.payload, "the order").get("identifiers")
        match identifiers:
            case [{"type": type_, "value": str(value)}] if type_ == PERMANENT_IDENTIFIER:
                pass
            case _:
                raise _problem("unsupportedIdentifier", f"Expected one {PERMANENT_IDENTIFIER}, found something else.")
        if not self.is_unused(value):
            raise _problem("rejectedIdentifier", "The client identifier is unknown or was already used.", 403)
        number = secrets.token_urlsafe(12)
        order = _Order(account, value, secrets.token_urlsafe(24), number)
        _keep(self._orders, number, order)
        return self._order(order, b"", 201)

    def _order(self, order: _Order, _payload: bytes, status: int = 200) -> ACMEAnswer:
        shown: dict[str, Any] = {
            "status": order.status,
            "identifiers": [{"type": PERMANENT_IDENTIFIER, "value": order.identifier}],
            "authorizations": [f"{self.url}/authorization/{order.number}"],
            "finalize": f"{self.url}/finalize/{order.number}",
        }
        if order.certificate:
            shown["certificate"] = f"{self.url}/certificate/{order.number}"
        return _json(status, shown, {"Location": f"{self.url}/order/{order.number}"})

    def _authorization(self, order: _Order, _payload: bytes) -> ACMEAnswer:
        return _json(
            200,
            {
                "status": order.challenge,
                "identifier": {"type": PERMANENT_IDENTIFIER, "value": order.identifier},
                "challenges": [self._shown_challenge(order)],
            },
        )

    def _shown_challenge(self, order: _Order) -> dict[str, Any]:
        shown = {
            "type": "http-01" if "acme-challenge-http" in self._defects else CHALLENGE,
            "url": f"{self.url}/challenge/{order.number}",
            "token": order.token,
            "status": order.challenge,
        }
        return shown if order.error is None else {**shown, "error": order.error}

    def _challenge(self, order: _Order, payload: bytes) -> ACMEAnswer:
        if order.challenge == "pending":
            try:
                chain = attestation_in(load_object(payload, "the answer to the challenge"))
                order.attested = attested_by(chain, order.token) if chain else None
                order.challenge, order.status = "valid", "ready"
            except PeerError as error:
                order.error = {"type": f"{_PROBLEMS}badAttestationStatement", "detail": str(error)}
                order.challenge = order.status = "invalid"
        return _json(200, self._shown_challenge(order))

    def _finalize(self, order: _Order, payload: bytes) -> ACMEAnswer:
        if order.status != "ready":
            raise _problem("orderNotReady", f"Expected an order that is ready, found it {order.status}.", 403)
        csr = decode_base64url(load_object(payload, "the finalization").get("csr"), "csr")
        try:
            request = read_csr(csr)
        except PeerError as error:
            raise _problem("badCSR", str(error)) from error
        _check_attested(request, order.attested)
        if not self.use(order.identifier):
            raise _problem("rejectedIdentifier", "The client identifier was used meanwhile.", 403)
        certificate = self._authorities.issue_by_acme(request)
        self.issued(order.identifier, certificate)
        chain = (certificate, self._authorities.anchor)
        order.certificate = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
        order.status = "valid"
        return self._order(order, b"")

    def _certificate(self, order: _Order, _payload: bytes) -> ACMEAnswer:
        if not order.certificate:
            raise _problem("orderNotReady", "The order has no certificate.", 403)
        return ACMEAnswer(200, JSON if "acme-chain-type" in self._defects else PEM_CHAIN, order.certificate)

    def _new_nonce(self) -> str:
        nonce = secrets.token_urlsafe(16)
        _keep(self._nonces, nonce, None)
        return nonce


_DIRECTORY = {"newNonce": "new-nonce", "newAccount": "new-account", "newOrder": "new-order"}
_RESOURCES: Mapping[str, Callable[[ACMEService, _Order, bytes], ACMEAnswer]] = {
    "order": ACMEService._order,
    "authorization": ACMEService._authorization,
    "challenge": ACMEService._challenge,
    "finalize": ACMEService._finalize,
    "certificate": ACMEService._certificate,
}


def _check_attested(request: CertificateRequest, attested: Attested | None) -> None:
    """Check that a request is for the attested key, and names the attested Mac. Raises ACMEProblem."""
    if attested is None:
        return
    spki = request.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not hmac.compare_digest(spki, attested.public_key):
        raise _problem("badCSR", "Expected a request for the attested key, found one for another key.")
    try:
        names = [name.value for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except UNREADABLE as error:
        raise _problem("badCSR", "The Subject of the request cannot be read.") from error
    if names != [attested.serial_number]:
        raise _problem("badCSR", f"Expected the CommonName {attested.serial_number}, found {names!r:.200}.")


def _json(status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> ACMEAnswer:
    return ACMEAnswer(status, JSON, json.dumps(content).encode(), headers or {})


def _refusal(problem: ACMEProblem) -> ACMEAnswer:
    content = {"type": _PROBLEMS + problem.type, "detail": str(problem), "status": problem.status}
    return ACMEAnswer(problem.status, PROBLEM, json.dumps(content).encode())


def _keep(kept: OrderedDict[str, KeptT], name: str, value: KeptT) -> None:
    """Add to a store of MAX_KEPT items, and drop the oldest."""
    if len(kept) >= MAX_KEPT:
        kept.popitem(last=False)
    kept[name] = value
