"""Requirements of SCEP: what the CA answers to a Mac, and the SCEP payload of the enrollment profile."""

from __future__ import annotations

from typing import Any

from agent.conform.reading.scep import NO_PAYLOAD, operations, settings, unasked
from agent.conform.trace.bodies import certificates_of, plain
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Check, Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.pki.certificates import CertificateError
from agent.pki.scep.cacert import CA_CONTENT_TYPE, CA_RA_CONTENT_TYPE, FINGERPRINTS
from agent.pki.scep.messages import CONTENT_TYPE
from agent.profiles.scep import DEFAULT_KEY_SIZE, KEY_SIZES

_RFC = "RFC 8894"
_ENROLL = "scep-enroll"
_PAYLOAD = "profiles/com.apple.security.scep.yaml"


def capabilities_answered(evidence: Evidence) -> Finding:
    """GetCACaps is answered with 200 and text."""
    exchanges = operations(evidence, "GetCACaps")
    for each in exchanges:
        if each.status != 200 or each.response.form != "text":
            return failed("status 200 with a line for each capability", _answer(each), each)
    return passed(*exchanges) if exchanges else not_tested(unasked(evidence))


def strong_algorithms(evidence: Evidence) -> Finding:
    """The capabilities name SHA-256 and AES, or SCEPStandard, which means both."""
    exchanges = [each for each in operations(evidence, "GetCACaps") if each.status == 200]
    for each in exchanges:
        words = {line.strip().lower() for line in str(each.response.value or "").splitlines()}
        if "scepstandard" not in words and not {"sha-256", "aes"} <= words:
            return failed("SCEPStandard, or SHA-256 and AES", ", ".join(sorted(words))[:200] or "none", each)
    if exchanges:
        return passed(*exchanges)
    asked = operations(evidence, "GetCACaps")
    return not_tested("The CA did not answer GetCACaps with 200." if asked else unasked(evidence))


def certificate_type(evidence: Evidence) -> Finding:
    """GetCACert has one of the two media types."""
    return _of_type(evidence, "GetCACert", CA_CONTENT_TYPE, CA_RA_CONTENT_TYPE)


def operation_type(evidence: Evidence) -> Finding:
    """PKIOperation has its media type."""
    return _of_type(evidence, "PKIOperation", CONTENT_TYPE)


def wrong_challenge(evidence: Evidence) -> Finding:
    """A wrong challenge is refused by a CertRep, without a certificate, and the right one is not."""
    asked = [each for each in operations(evidence, "PKIOperation") if each.status is not None]
    exchanges = [each for each in asked if each.probe != _ENROLL]
    if not exchanges:
        return not_tested("No certificate was asked for with a wrong challenge.")
    last = exchanges[-1]
    status = _status(last)
    if status == "PENDING":
        return not_tested("The CA has not decided on the certificate.", last)
    if status != "FAILURE":
        seen = "a certificate" if status == "SUCCESS" else _answer(last)
        return failed("a CertRep with the status FAILURE", seen, last)
    issued = [each for each in asked if each.probe == _ENROLL and _status(each) == "SUCCESS"]
    return passed(last, *issued) if issued else not_tested("The CA refused the right challenge, too.", *asked)


def _status(exchange: ExchangeRecord) -> Any:
    return exchange.response.dictionary.get("pkiStatus")


def fingerprint(evidence: Evidence) -> Finding:
    """CAFingerprint is a digest of a certificate of the CA."""
    answers = [each for each in operations(evidence, "GetCACert") if each.status == 200]
    for profile, content in settings(evidence):
        wanted = content.get("CAFingerprint")
        if wanted is None:
            continue
        digest = FINGERPRINTS.get(len(wanted)) if isinstance(wanted, bytes) else None
        if digest is None:
            return failed("a CAFingerprint of the length of a digest", repr(wanted)[:80], profile)
        for each in answers:
            try:
                found = [one.fingerprint(digest) for one in certificates_of(plain(each.response.value))]
            except CertificateError:
                found = []
            if not found:
                return not_tested("The answer to GetCACert has no certificate that can be read.", each)
            if wanted not in found:
                seen = f"{wanted.hex()}, and no certificate of the CA with this {digest.name} fingerprint"
                return failed("the fingerprint of a certificate of the CA", seen, profile, each)
            return passed(profile, each)
    return not_tested("The profile has no CAFingerprint." if settings(evidence) else NO_PAYLOAD)


def key_size(evidence: Evidence) -> Finding:
    """Keysize, where it is present, is one of the three; Apple's example has 0, which means the default."""
    found = settings(evidence)
    for profile, content in found:
        value = content.get("Keysize", DEFAULT_KEY_SIZE)
        if value not in (0, *KEY_SIZES) or not isinstance(value, int):
            return failed(f"a Keysize of {', '.join(map(str, KEY_SIZES))}", repr(value)[:80], profile)
    return passed(*(profile for profile, _ in found)) if found else not_tested(NO_PAYLOAD)


def _of_type(evidence: Evidence, operation: str, *types: str) -> Finding:
    exchanges = [each for each in operations(evidence, operation) if each.status == 200]
    for each in exchanges:
        if each.content_type not in types:
            wanted = f"an answer to {operation} with the Content-Type {' or '.join(types)}"
            return failed(wanted, each.content_type or "no Content-Type", each)
    return passed(*exchanges) if exchanges else not_tested(unasked(evidence))


def _answer(exchange: ExchangeRecord) -> str:
    if exchange.status is None:
        return exchange.error or "no answer"
    return f"status {exchange.status} with a body of {exchange.response.length} bytes"


def _entry(number: int, says: str, source: Source, check: Check, *probes: str) -> Requirement:
    id_ = f"MDM-SCEP-{number:02d}"
    return Requirement(id_, Level.MUST, says, source, ("mdm",), (*probes, _ENROLL), check, needs="scep")


REQUIREMENTS = (
    _entry(
        1,
        "A SCEP CA must answer GetCACaps with 200 and its capabilities as text.",
        Source(_RFC, "2.9 and 3.5", "2020-09"),
        capabilities_answered,
    ),
    _entry(
        2,
        "A SCEP CA must name SHA-256 and AES, or SCEPStandard, in its capabilities.",
        Source(_RFC, "2.9 and 3.5.2", "2020-09"),
        strong_algorithms,
    ),
    _entry(
        3,
        "A SCEP CA must answer GetCACert with application/x-x509-ca-cert or application/x-x509-ca-ra-cert.",
        Source(_RFC, "4.2.1", "2020-09"),
        certificate_type,
    ),
    _entry(
        4,
        "A SCEP CA must answer PKIOperation with the Content-Type application/x-pki-message.",
        Source(_RFC, "4.3", "2020-09"),
        operation_type,
    ),
    _entry(
        5,
        "A SCEP CA must refuse a wrong challenge by a CertRep with the status FAILURE.",
        Source(_RFC, "3.3.2", "2020-09"),
        wrong_challenge,
        "scep-wrong-challenge",
    ),
    _entry(
        6,
        "CAFingerprint of a SCEP payload must be the fingerprint of the CA's certificate.",
        Source(_PAYLOAD, "CAFingerprint"),
        fingerprint,
    ),
    _entry(
        7,
        "Keysize of a SCEP payload must be 1024, 2048 or 4096.",
        Source(_PAYLOAD, "Keysize"),
        key_size,
    ),
)
