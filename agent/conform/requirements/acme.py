"""Requirements of ACME: what the server of an ACME payload answers to a Mac."""

from __future__ import annotations

from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Check, Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.pki.acme.attestation import CHALLENGE, PERMANENT_IDENTIFIER

PAYLOAD = "com.apple.security.acme"
_RFC = "RFC 8555"
_CHAIN = "application/pem-certificate-chain"
_RESOURCES = ("newNonce", "newAccount", "newOrder")


def directory(evidence: Evidence) -> Finding:
    """The directory names the resources that a Mac uses."""
    asked = evidence.exchanges("acme", message_type="directory")
    for each in asked:
        found = each.response.dictionary
        missing = [name for name in _RESOURCES if not isinstance(found.get(name), str)]
        if each.status != 200 or missing:
            return failed(f"status 200 and URLs for {', '.join(_RESOURCES)}", _answer(each, missing), each)
    return passed(*asked) if asked else _unasked(evidence, "directory")


def nonce(evidence: Evidence) -> Finding:
    """newNonce is answered with a nonce."""
    asked = evidence.exchanges("acme", message_type="newNonce")
    for each in asked:
        if not each.accepted or not each.response_headers.get("replay-nonce"):
            return failed("status 200 or 204 with the header Replay-Nonce", _answer(each, ["Replay-Nonce"]), each)
    return passed(*asked) if asked else _unasked(evidence, "newNonce")


def challenge(evidence: Evidence) -> Finding:
    """The authorization of a permanent-identifier offers device-attest-01."""
    asked = [each for each in evidence.exchanges("acme", message_type="authorization") if each.accepted]
    for each in asked:
        found = each.response.dictionary
        identifier, challenges = found.get("identifier"), found.get("challenges")
        kind = identifier.get("type") if isinstance(identifier, dict) else None
        offered = [item.get("type") for item in challenges or () if isinstance(item, dict)]
        if kind != PERMANENT_IDENTIFIER or CHALLENGE not in offered:
            seen = f"{', '.join(map(str, offered))[:200] or 'none'} for {str(kind)[:80]}"
            return failed(f"{CHALLENGE} for {PERMANENT_IDENTIFIER}", seen, each)
    return passed(*asked) if asked else _unasked(evidence, "authorization")


def chain(evidence: Evidence) -> Finding:
    """The certificate comes as a PEM chain."""
    asked = [each for each in evidence.exchanges("acme", message_type="certificate") if each.accepted]
    for each in asked:
        if each.content_type != _CHAIN:
            return failed(f"the Content-Type {_CHAIN}", each.content_type[:80] or "none", each)
    return passed(*asked) if asked else _unasked(evidence, "certificate")


def _unasked(evidence: Evidence, resource: str) -> Finding:
    if any(profile.of_type(PAYLOAD) for profile in evidence.profiles()):
        return not_tested(f"The Mac did not come to ask for the resource {resource}.")
    return not_tested("The enrollment profile has no ACME payload.")


def _answer(exchange: ExchangeRecord, missing: list[str]) -> str:
    if exchange.status is None:
        return exchange.error or "no answer"
    return f"status {exchange.status}" + (f" without {', '.join(missing)}" if missing and exchange.accepted else "")


def _entry(number: int, says: str, source: Source, check: Check) -> Requirement:
    return Requirement(
        f"MDM-ACME-{number:02}", Level.MUST, says, source, ("mdm",), ("acme-enroll",), check, needs="acme"
    )


REQUIREMENTS = (
    _entry(
        1,
        "The directory of an ACME server must name newNonce, newAccount and newOrder.",
        Source(_RFC, "7.1.1", "2019-03"),
        directory,
    ),
    _entry(
        2,
        "An ACME server must answer newNonce with the header Replay-Nonce.",
        Source(_RFC, "7.2", "2019-03"),
        nonce,
    ),
    _entry(
        3,
        "The authorization of a client identifier must offer the challenge device-attest-01.",
        Source("profiles/com.apple.security.acme.yaml", "ClientIdentifier, Attest"),
        challenge,
    ),
    _entry(
        4,
        "An ACME server must send the certificate as application/pem-certificate-chain.",
        Source(_RFC, "7.4.2", "2019-03"),
        chain,
    ),
)
