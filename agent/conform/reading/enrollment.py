"""What the checks of enrollment share: the profiles that Macs fetched, and their MDM payloads. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.verdicts.requirement import Check, Finding, Level, Requirement, Source, not_tested, passed
from agent.profiles.profile import OVER_THE_AIR_TYPE

FETCH = "enrollment-fetch"  # the probe of most
MDM = "com.apple.mdm"
MDM_PAYLOAD = "profiles/com.apple.mdm.yaml"
TOP_LEVEL = "profiles/TopLevel.yaml"
COMMON_KEYS = "profiles/CommonPayloadKeys.yaml"
REFERENCE = "Apple Mobile Device Management Protocol Reference"
MANAGING_CERTIFICATES = "Apple Device Management, Managing certificates for device management services and devices"
BEST_PRACTICES = "MDM Best Practices"
REFERENCE_DATE = "2019-03-25"
PKCS12 = "com.apple.security.pkcs12"
IDENTITIES = (PKCS12, "com.apple.security.scep", "com.apple.security.acme")
CERTIFICATES = ("com.apple.security.root", "com.apple.security.pkcs1", "com.apple.security.pem", PKCS12)
PINS = ("ServerURLPinningCertificateUUIDs", "CheckInURLPinningCertificateUUIDs")
IDENTITY_STEP = "identity"  # of the note with the certificate of a Mac's MDM identity
TRUST_STEP = "trust"  # of the note that says whether the system trusts the chain of ServerURL's server
SERVER_URL = "ServerURL"  # says that a handshake was with its server
NOT_FETCHED = (
    "No Mac fetched an enrollment profile that can be read: the server sent none, or one that only starts an "
    "over-the-air enrollment or is encrypted, or the profile was given as a file."
)
NO_PAYLOAD = f"The enrollment profile has no {MDM} payload."

JudgeProfile = Callable[[SentProfile], Finding | None]
JudgePayload = Callable[[SentProfile, Mapping[str, Any]], Finding | None]


def fetched(evidence: Evidence) -> list[SentProfile]:
    """The enrollment profiles that Macs fetched and that can be read.

    Without those that have no payloads yet, because they start an over-the-air enrollment or are encrypted.
    """
    return [
        each
        for each in evidence.profiles()
        if not each.command_uuid
        and each.exchange.status == 200
        and not each.exchange.rules
        and each.content
        and each.content.get("PayloadType") != OVER_THE_AIR_TYPE
        and "EncryptedPayloadContent" not in each.content
    ]


def of_profiles(evidence: Evidence, judge: JudgeProfile) -> Finding:
    """The first failure in a fetched profile; passed if there is none."""
    profiles = fetched(evidence)
    for profile in profiles:
        found = judge(profile)
        if found is not None:
            return found
    return passed(*profiles) if profiles else not_tested(NOT_FETCHED)


def of_mdm(evidence: Evidence, judge: JudgePayload) -> Finding:
    """The first failure in an MDM payload of a fetched profile; passed if there is none."""
    profiles = fetched(evidence)
    judged = [profile for profile in profiles if profile.of_type(MDM)]
    for profile in judged:
        for payload in profile.of_type(MDM):
            found = judge(profile, payload)
            if found is not None:
                return found
    return passed(*judged) if judged else not_tested(NO_PAYLOAD if profiles else NOT_FETCHED, *profiles)


def identity_payload(profile: SentProfile, payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The payload that IdentityCertificateUUID names; None if it names none."""
    return profile.payload(payload.get("IdentityCertificateUUID"))


def shown(value: object) -> str:
    """A value of a profile in a finding."""
    if value is None:
        return "none"
    return repr(value[:80]) if isinstance(value, str) else str(value)[:200]


def entry(
    number: int,
    level: Level,
    says: str,
    source: Source,
    check: Check,
    *,
    profiles: tuple[str, ...] = ("mdm",),
    probe: str = FETCH,
    needs: str | None = None,
) -> Requirement:
    """A requirement of the area MDM-ENROLL."""
    return Requirement(f"MDM-ENROLL-{number:02}", level, says, source, profiles, (probe,), check, needs=needs)


def must(number: int, says: str, source: Source, check: Check, *profiles: str, probe: str = FETCH) -> Requirement:
    """A must; by default of the profiles ``lom`` and ``mdm``."""
    return entry(number, Level.MUST, says, source, check, profiles=profiles or ("lom", "mdm"), probe=probe)
