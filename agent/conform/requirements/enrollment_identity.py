"""Requirements of what proves who is who in an enrollment: the profile's signature, the MDM identity, the pins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.conform.reading.enrollment import (
    BEST_PRACTICES,
    CERTIFICATES,
    IDENTITY_STEP,
    MANAGING_CERTIFICATES,
    MDM,
    MDM_PAYLOAD,
    NOT_FETCHED,
    PKCS12,
    REFERENCE,
    REFERENCE_DATE,
    SERVER_URL,
    TRUST_STEP,
    entry,
    fetched,
    identity_payload,
    must,
    of_mdm,
)
from agent.conform.reading.lom import extension_of
from agent.conform.trace.bodies import UNVERIFIED, Certificates, certificates_of
from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.trace.records import TLSRecord
from agent.conform.verdicts.requirement import (
    Finding,
    Level,
    Numbered,
    Source,
    failed,
    not_tested,
    passed,
)
from agent.pki.certificates import CertificateError, read_certificates

_PIN = "ServerURLPinningCertificateUUIDs"
_NO_IDENTITY = "No Mac got an MDM identity: it could not enroll, and the profile has none that can be read."


def signed(evidence: Evidence) -> Finding:
    """The profile is signed."""
    profiles = fetched(evidence)
    for each in profiles:
        if not each.signers:
            return failed("a signed profile", "a profile without a signature", each)
    return passed(*profiles) if profiles else not_tested(NOT_FETCHED)


def signature_verifies(evidence: Evidence) -> Finding:
    """The signature of a signed profile is over what was sent."""
    exchanges = [each for each in evidence.exchanges("enroll") if each.status == 200 and not each.rules]
    for each in exchanges:
        if each.response.problem.startswith(UNVERIFIED):
            return failed("a signature that verifies", each.response.problem, each)
    verified = [each for each in exchanges if each.response.signers]
    return passed(*verified) if verified else not_tested("No Mac fetched a signed enrollment profile.")


def signature_without_sha1(evidence: Evidence) -> Finding:
    """The signature's digest is not SHA-1."""
    profiles = [each for each in fetched(evidence) if each.exchange.response.digest]
    for each in profiles:
        if each.exchange.response.digest == "sha1":
            return failed("a signature with SHA-256 or better", "a signature with SHA-1", each)
    return passed(*profiles) if profiles else not_tested("No Mac fetched a signed enrollment profile.")


def password_opens(evidence: Evidence) -> Finding:
    """The payload's Password opens the PKCS12."""
    opened: list[SentProfile] = []
    for profile, payload in _pkcs12s(evidence):
        content = payload.get("PayloadContent")
        problem = content.problem if isinstance(content, Certificates) else "no data"
        if problem == "pkcs12_password" and "Password" in payload:
            return failed("a Password that opens the PKCS12", "another password", profile)
        if not problem:
            opened.append(profile)
    return passed(*opened) if opened else not_tested("The MDM identity did not come as a PKCS12 that can be read.")


def client_authentication(evidence: Evidence) -> Finding:
    """The identity may be used to authenticate a client."""

    def judge(certificate: x509.Certificate, _now: datetime) -> str:
        usage = extension_of(certificate, x509.ExtendedKeyUsage)
        usable = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        if usage is None or any(each in usage for each in usable):
            return ""
        return f"Extended Key Usage {', '.join(each.dotted_string for each in usage)}"

    return _of_identities(evidence, "Extended Key Usage of client authentication, or none", judge)


def identity_in_force(evidence: Evidence) -> Finding:
    """The identity is valid when the Mac gets it."""

    def judge(certificate: x509.Certificate, now: datetime) -> str:
        if certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return ""
        return f"one that is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}"

    return _of_identities(evidence, "a certificate that is valid now", judge)


def identity_of_one_mac(evidence: Evidence) -> Finding:
    """Two Macs do not get the same key."""
    if not fetched(evidence):
        return not_tested(NOT_FETCHED)
    owners: dict[bytes, tuple[str, Numbered]] = {}
    for udid, _at, certificate, record in _identities(evidence):
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        owner, first = owners.setdefault(key, (udid, record))
        if owner != udid:
            return failed("an MDM identity of its own for each Mac", "one key for two Macs", first, record)
    if len({udid for udid, _ in owners.values()}) < 2:
        return not_tested("Fewer than two Macs got an MDM identity that can be read.")
    return passed(*[record for _, record in owners.values()])


def pinned_chain(evidence: Evidence) -> Finding:
    """The server of ServerURL shows a chain with a pinned certificate."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        uuids = payload.get(_PIN)
        if not isinstance(uuids, list) or not uuids:
            return None
        pins = _certificates_at(profile, uuids)
        others = [each for each in shaken if not _leads_to(each, pins)]
        seen = "another chain"
        return failed("a chain with a certificate that is pinned", seen, profile, *others) if others else None

    shaken = [each for each in evidence.handshakes(SERVER_URL) if each.chain]
    if not shaken:
        return not_tested("There was no handshake with the server of ServerURL.")
    return of_mdm(evidence, judge)


def root_in_profile(evidence: Evidence) -> Finding:
    """A CA of the organization's own, to which the server's chain leads, comes with the profile."""
    shaken = [each for each in evidence.handshakes(SERVER_URL) if each.chain]
    trust = evidence.notes(TRUST_STEP)
    profiles = fetched(evidence)
    if not shaken or not trust or not profiles:
        return not_tested("There was no handshake with the server of ServerURL.")
    for profile in profiles:
        payloads = [each for each in profile.payloads if each.get("PayloadType") in CERTIFICATES]
        anchors = _certificates_at(profile, [each.get("PayloadUUID") for each in payloads])
        if not trust[0].data["system"] and not _leads_to(shaken[0], anchors):
            return failed(
                "a CA certificate in the profile to which the chain of the server leads",
                "a chain that leads neither to one nor to a CA that this machine trusts",
                profile,
                shaken[0],
            )
    return passed(*profiles, shaken[0])


def _leads_to(shaken: TLSRecord, anchors: list[x509.Certificate]) -> bool:
    """Whether one of these certificates is in the chain of a server, or has issued its last certificate."""
    chain = [certificate for pem in shaken.chain for certificate in read_certificates(pem.encode())]
    current = chain[0]
    for _ in chain:
        if any(current == anchor or _issued(current, anchor) for anchor in anchors):
            return True
        issuers = [each for each in chain if each != current and _issued(current, each)]
        if not issuers:
            return False
        current = issuers[0]
    return False


def _certificates_at(profile: SentProfile, uuids: list[Any]) -> list[x509.Certificate]:
    """The certificates in these payloads, as far as they can be read."""
    found: list[x509.Certificate] = []
    for uuid in uuids:
        with suppress(CertificateError):
            found += certificates_of((profile.payload(uuid) or {}).get("PayloadContent"))
    return found


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pkcs12s(evidence: Evidence) -> Iterator[tuple[SentProfile, Mapping[str, Any]]]:
    """The PKCS12 payloads with MDM identities."""
    for profile in fetched(evidence):
        for payload in profile.of_type(MDM):
            named = identity_payload(profile, payload)
            if named is not None and named.get("PayloadType") == PKCS12:
                yield profile, named


def _identities(evidence: Evidence) -> Iterator[tuple[str, float, x509.Certificate, Numbered]]:
    """The MDM identities: UDID, when it came, the certificate, and the record; a PKCS12 is there before it is used."""
    for profile, payload in _pkcs12s(evidence):
        for certificate in certificates_of(payload.get("PayloadContent"))[:1]:
            yield profile.udid, profile.exchange.at, certificate, profile
    for note in evidence.notes(IDENTITY_STEP):
        for certificate in read_certificates(str(note.data["certificate"]).encode())[:1]:
            yield note.udid, note.at, certificate, note


def _of_identities(evidence: Evidence, expected: str, judge: Callable[[x509.Certificate, datetime], str]) -> Finding:
    """The first MDM identity about which ``judge`` says something; passed if there is none."""
    judged: list[Numbered] = []
    for _udid, at, certificate, record in _identities(evidence):
        judged.append(record)
        seen = judge(certificate, datetime.fromtimestamp(at, UTC))
        if seen:
            return failed(expected, seen[:200], record)
    return passed(*judged) if judged else not_tested(_NO_IDENTITY)


REQUIREMENTS = (
    entry(
        17,
        Level.SHOULD,
        "The enrollment profile should be signed, so that its origin can be validated.",
        Source("Apple Platform Security", "Configuration profile enforcement, Profile signing and encryption", "2024"),
        signed,
        profiles=("mdm",),
    ),
    entry(
        18,
        Level.SHOULD,
        "The signature of the enrollment profile should not be made with SHA-1.",
        Source("NIST SP 800-131A Revision 2", "Table 8", "2019-03"),
        signature_without_sha1,
        profiles=("mdm",),
    ),
    must(
        19,
        "The Password of a PKCS12 payload must be that of the PKCS12.",
        Source("profiles/com.apple.security.pkcs12.yaml", "Password"),
        password_opens,
    ),
    must(
        20,
        "The MDM identity must have the Extended Key Usage of client authentication, or none.",
        Source("RFC 5280", "4.2.1.12", "2008-05"),
        client_authentication,
    ),
    must(
        21,
        "Each Mac must get an MDM identity of its own.",
        Source(REFERENCE, f"{BEST_PRACTICES}, Distributing Client Identities", REFERENCE_DATE),
        identity_of_one_mac,
        probe="enrollment-two",
    ),
    must(
        22,
        "If certificates are pinned for ServerURL, the chain of its server must contain one or lead to one.",
        Source(MDM_PAYLOAD, _PIN),
        pinned_chain,
        probe="enrollment-tls",
    ),
    must(
        25,
        "The signature of a signed enrollment profile must verify.",
        Source("RFC 5652", "5.6", "2009-09"),
        signature_verifies,
    ),
    must(
        28,
        "The MDM identity must be valid when a Mac gets it.",
        Source("RFC 5280", "4.1.2.5", "2008-05"),
        identity_in_force,
    ),
    entry(
        29,
        Level.SHOULD,
        "If the certificate of the MDM server is of an organization's own CA, the profile should contain that CA.",
        Source(MANAGING_CERTIFICATES, "Overview", "2026"),
        root_in_profile,
        profiles=("lom", "mdm"),
        probe="enrollment-tls",
    ),
)
