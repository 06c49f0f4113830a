"""Requirements of the MDM payload in the enrollment profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import plists
from agent.conform.reading.enrollment import (
    BEST_PRACTICES,
    CERTIFICATES,
    IDENTITIES,
    MDM,
    MDM_PAYLOAD,
    PINS,
    REFERENCE,
    REFERENCE_DATE,
    entry,
    fetched,
    identity_payload,
    must,
    of_mdm,
    shown,
)
from agent.conform.trace.bodies import Redacted
from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.verdicts.requirement import Finding, Level, Source, failed, not_tested
from agent.mdm.access_rights import AccessRights, AccessRightsError, check_access_rights

_PER_USER = "com.apple.mdm.per-user-connections"
_BOOTSTRAP = "com.apple.mdm.bootstraptoken"
_CAPABILITIES = (_PER_USER, _BOOTSTRAP, "com.apple.mdm.token")
_TYPES: Mapping[str, type] = {
    "IdentityCertificateUUID": str,
    "Topic": str,
    "ServerURL": str,
    "CheckInURL": str,
    "SignMessage": bool,
    "AccessRights": int,
    "UseDevelopmentAPNS": bool,
    "AssignedManagedAppleID": str,
    "EnrollmentMode": str,
    "ServerURLPinningCertificateUUIDs": list,
    "CheckInURLPinningCertificateUUIDs": list,
    "PinningRevocationCheckRequired": bool,
    "ServerCapabilities": list,
    "CheckOutWhenRemoved": bool,
    "PromptUserToAllowBootstrapTokenForAuthentication": bool,
}


def right_of_lom(evidence: Evidence) -> Finding:
    """AccessRights contains 4. Without AccessRights nothing is judged: no document says what a Mac then takes."""
    if all("AccessRights" not in each for profile in fetched(evidence) for each in profile.of_type(MDM)):
        return not_tested("The enrollment profile has no AccessRights, or there is no profile.")

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        rights = payload.get("AccessRights")
        if isinstance(rights, int) and rights & AccessRights.LOCK_DEVICE:
            return None
        return failed("AccessRights with 4, device lock and passcode removal", shown(rights), profile)

    return of_mdm(evidence, judge)


def rights_are_valid(evidence: Evidence) -> Finding:
    """AccessRights is not 0, has known bits only, 2 only with 1, and 128 only with 64."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        rights = payload.get("AccessRights", 1)
        try:
            if isinstance(rights, int) and not isinstance(rights, bool):
                check_access_rights(rights)
                return None
        except AccessRightsError:
            pass
        return failed(
            "AccessRights from 1 to 8191, with 1 if it has 2, and with 64 if it has 128", shown(rights), profile
        )

    return of_mdm(evidence, judge)


def server_url_is_https(evidence: Evidence) -> Finding:
    """ServerURL is an https URL."""
    return of_mdm(evidence, lambda profile, payload: _https(profile, "ServerURL", payload.get("ServerURL")))


def check_in_url_is_https(evidence: Evidence) -> Finding:
    """CheckInURL is one, too; without it, ServerURL is used."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        return _https(profile, "CheckInURL", payload["CheckInURL"]) if "CheckInURL" in payload else None

    return of_mdm(evidence, judge)


def _https(profile: SentProfile, key: str, url: object) -> Finding | None:
    if isinstance(url, str) and url.startswith("https://"):
        return None
    return failed(f"{key} that begins with https://", shown(url), profile)


def topic(evidence: Evidence) -> Finding:
    """Topic has Apple's prefix."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        found = payload.get("Topic")
        if isinstance(found, str) and found.startswith("com.apple.mgmt."):
            return None
        return failed("Topic that begins with com.apple.mgmt.", shown(found), profile)

    return of_mdm(evidence, judge)


def identity_reference(evidence: Evidence) -> Finding:
    """IdentityCertificateUUID names a payload with an identity."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        named = identity_payload(profile, payload)
        if named is not None and named.get("PayloadType") in IDENTITIES:
            return None
        seen = "which no payload has" if named is None else f"that of a payload {shown(named.get('PayloadType'))}"
        return failed(
            f"IdentityCertificateUUID to name a payload {', '.join(IDENTITIES[:-1])} or {IDENTITIES[-1]}",
            f"{shown(payload.get('IdentityCertificateUUID'))}, {seen}",
            profile,
        )

    return of_mdm(evidence, judge)


def pinning_references(evidence: Evidence) -> Finding:
    """What is pinned is a certificate payload of the profile."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        for key in PINS:
            uuids = payload.get(key, [])
            for uuid in uuids if isinstance(uuids, list) else [uuids]:
                named = profile.payload(uuid)
                if named is None or named.get("PayloadType") not in CERTIFICATES:
                    seen = "which no certificate payload has"
                    return failed(f"{key} to name certificate payloads", f"{shown(uuid)}, {seen}", profile)
        return None

    return of_mdm(evidence, judge)


def per_user_connections(evidence: Evidence) -> Finding:
    """ServerCapabilities has com.apple.mdm.per-user-connections."""
    return _has_capability(evidence, _PER_USER)


def bootstrap_token(evidence: Evidence) -> Finding:
    """ServerCapabilities has com.apple.mdm.bootstraptoken."""
    return _has_capability(evidence, _BOOTSTRAP)


def _has_capability(evidence: Evidence, name: str) -> Finding:
    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        found = payload.get("ServerCapabilities")
        if isinstance(found, list) and name in found:
            return None
        return failed(f"ServerCapabilities with {name}", shown(found), profile)

    return of_mdm(evidence, judge)


def capabilities_are_unique(evidence: Evidence) -> Finding:
    """ServerCapabilities has each of Apple's values at most once, and no other."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        found = payload.get("ServerCapabilities", [])
        known = isinstance(found, list) and all(each in _CAPABILITIES for each in found)
        if known and len(set(found)) == len(found):
            return None
        return failed(f"ServerCapabilities with each of {', '.join(_CAPABILITIES)} at most once", shown(found), profile)

    return of_mdm(evidence, judge)


def key_types(evidence: Evidence) -> Finding:
    """The keys of the MDM payload have the types of the schema."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        for key, kind in _TYPES.items():
            value = payload.get(key)
            if value is None or isinstance(value, Redacted) or type(value) is kind:
                continue
            return failed(f"{key} as {plists.type_name(kind())}", plists.type_name(value), profile)
        return None

    return of_mdm(evidence, judge)


def check_out(evidence: Evidence) -> Finding:
    """The Mac is asked to say when it is no longer managed."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        found = payload.get("CheckOutWhenRemoved")
        wanted = isinstance(found, int) and bool(found)  # a Mac takes 1 for true
        return None if wanted else failed("CheckOutWhenRemoved true", shown(found), profile)

    return of_mdm(evidence, judge)


def no_user_enrollment(evidence: Evidence) -> Finding:
    """It is no user enrollment, which forbids LOM."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        found = payload.get("EnrollmentMode")
        return failed("another EnrollmentMode, or none", "EnrollmentMode BYOD", profile) if found == "BYOD" else None

    return of_mdm(evidence, judge)


def no_managed_apple_id(evidence: Evidence) -> Finding:
    """ManagedAppleID is absent."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        return failed("no ManagedAppleID", "one", profile) if "ManagedAppleID" in payload else None

    return of_mdm(evidence, judge)


REQUIREMENTS = (
    must(
        2,
        "For LOM, AccessRights must contain 4 (device lock and passcode removal).",
        Source("commands/lom.setuprequest.yaml", "accessrights"),
        right_of_lom,
        "lom",
    ),
    must(
        3,
        "AccessRights, if it is present, must be from 1 to 8191, with 1 if it has 2, and with 64 if it has 128.",
        Source(MDM_PAYLOAD, "AccessRights"),
        rights_are_valid,
    ),
    must(4, "ServerURL must begin with https://.", Source(MDM_PAYLOAD, "ServerURL"), server_url_is_https),
    must(
        5,
        "CheckInURL, if it is present, must begin with https://.",
        Source(MDM_PAYLOAD, "CheckInURL"),
        check_in_url_is_https,
    ),
    must(6, "Topic must begin with com.apple.mgmt.", Source(MDM_PAYLOAD, "Topic"), topic),
    must(
        7,
        "IdentityCertificateUUID must name a PKCS12, SCEP or ACME payload of the profile.",
        Source(MDM_PAYLOAD, "IdentityCertificateUUID"),
        identity_reference,
    ),
    must(
        8,
        "Pinning UUIDs, if they are present, must name certificate payloads of the profile.",
        Source(MDM_PAYLOAD, ", ".join(PINS)),
        pinning_references,
    ),
    must(
        9,
        "For Macs, ServerCapabilities must contain com.apple.mdm.per-user-connections.",
        Source(MDM_PAYLOAD, "ServerCapabilities"),
        per_user_connections,
        "lom",
        "mdm",
        "macos27",
    ),
    entry(
        10,
        Level.SHOULD,
        "ServerCapabilities should contain com.apple.mdm.bootstraptoken, so that a Mac escrows its bootstrap token.",
        Source(MDM_PAYLOAD, "ServerCapabilities"),
        bootstrap_token,
        profiles=("mdm", "macos27"),
        needs="bootstraptoken",
    ),
    entry(
        24,
        Level.SHOULD,
        "CheckOutWhenRemoved should be true, so that the server learns that a Mac is no longer managed.",
        Source(REFERENCE, f"{BEST_PRACTICES}, Detecting Inactive Devices", REFERENCE_DATE),
        check_out,
    ),
    must(
        26,
        "ServerCapabilities, if it is present, must contain known capabilities, each once.",
        Source(MDM_PAYLOAD, "ServerCapabilities"),
        capabilities_are_unique,
        "mdm",
        "macos27",
    ),
    must(
        27,
        "The keys of the com.apple.mdm payload must have the types of the schema.",
        Source(MDM_PAYLOAD, "type"),
        key_types,
        "mdm",
    ),
    must(
        30,
        "For LOM, EnrollmentMode must not be BYOD: a user enrollment forbids LOMSetupRequest.",
        Source("commands/lom.setuprequest.yaml", f"userenrollment; {MDM_PAYLOAD}, EnrollmentMode"),
        no_user_enrollment,
        "lom",
    ),
    entry(
        32,
        Level.SHOULD,
        "The com.apple.mdm payload should not have ManagedAppleID, which macOS 15 removed.",
        Source(MDM_PAYLOAD, "ManagedAppleID"),
        no_managed_apple_id,
    ),
)
