"""What the operator can check when an enrollment is refused, because servers seldom give a reason.

docs/your-server.md, "When an enrollment is refused", explains the same at length.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.pki.scep.errors import FailInfo

SCEP: Mapping[FailInfo, str] = {
    FailInfo.BAD_REQUEST: (
        "Look at Challenge in the SCEP payload: is it there, is it the CA's, may it be used more than once? "
        "A CA that gives one certificate to a name refuses the Macs of an earlier run: use another fleet.seed (--seed)."
    ),
    FailInfo.BAD_MESSAGE_CHECK: (
        "Look at the CA's certificate: the message was encrypted for, or signed by, another key. Was the CA replaced?"
    ),
    FailInfo.BAD_TIME: "Compare the clocks of this machine and of the CA's.",
    FailInfo.BAD_ALG: "Look at Keysize in the SCEP payload, and at the algorithms that the CA's GetCACaps names.",
    FailInfo.BAD_CERT_ID: "The CA does not know the request. Did it lose its pending ones? Is it one of several?",
}
_CLIENT_IDENTIFIER = (
    "Look at ClientIdentifier in the ACME payload: does the server know it, and may it be used more than once? "
    "A server that knows its devices refuses the Macs of another fleet.seed (--seed)."
)
ACME: Mapping[str, str] = {  # by the type of the problem (RFC 8555, 6.7)
    "badAttestationStatement": (
        'Does the server trust the root of the attestations ("lom-agent attestation-root" prints it)? '
        "Are both clocks right?"
    ),
    "badCSR": "Look at Subject, SubjectAltName and KeySize in the ACME payload.",
    "externalAccountRequired": "A Mac has no external account: let the ACME server accept new accounts.",
    "rejectedIdentifier": _CLIENT_IDENTIFIER,
    "unauthorized": _CLIENT_IDENTIFIER,
    "unsupportedIdentifier": "Does the server support permanent-identifier and device-attest-01?",
}
SCEP_NOT_FOUND = "Look at URL in the SCEP payload."
UNSIGNED = (
    "The profile does not set SignMessage, so no message had an Mdm-Signature: a server that takes the Mac's "
    "certificate from there (NanoMDM without -cert-header, MicroMDM) needs SignMessage = true in the com.apple.mdm "
    "payload."
)
REFUSED = (
    "Does the server trust the CA that issued the Mac's identity (NanoMDM: -ca)? Are both clocks right? Was this Mac "
    "enrolled before with another certificate? Then use another fleet.seed (--seed)."
)
NOT_FOUND = "Look at ServerURL and CheckInURL in the com.apple.mdm payload."


def of_scep_status(status: int) -> str:
    """The hint for a SCEP answer with a status other than 200; empty where there is none."""
    return SCEP_NOT_FOUND if status in (404, 405) else ""


def of_check_in(status: int, *, signed: bool) -> str:
    """The hint for a refused check-in message; ``signed`` is with an Mdm-Signature. Empty if there is none."""
    if status in (404, 405):
        return NOT_FOUND
    if status not in (400, 401, 403):
        return ""
    return REFUSED if signed else f"{UNSIGNED} {REFUSED}"


def with_hint(text: str, hint: str) -> str:
    """An error's text, followed by the hint if there is one."""
    return f"{text}. {hint}" if hint else text
