"""Requirements of the enrollment profile: its structure, and the keys of its MDM payload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent import plists
from agent.conform.bodies import Redacted
from agent.conform.enrollment import (
    BEST_PRACTICES,
    CERTIFICATES,
    COMMON_KEYS,
    IDENTITIES,
    MDM,
    MDM_PAYLOAD,
    NOT_FETCHED,
    PINS,
    REFERENCE,
    REFERENCE_DATE,
    TOP_LEVEL,
    fetched,
    identity_payload,
    of_mdm,
    of_profiles,
    shown,
)
from agent.conform.evidence import Evidence, SentProfile
from agent.conform.requirement import Check, Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.mdm.access_rights import AccessRights, AccessRightsError, check_access_rights

_PER_USER = "com.apple.mdm.per-user-connections"
_BOOTSTRAP = "com.apple.mdm.bootstraptoken"
_CAPABILITIES = (_PER_USER, _BOOTSTRAP, "com.apple.mdm.token")
_MEDIA_TYPE = "application/x-apple-aspen-config"
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
_ENDS = ("PayloadExpirationDate", "RemovalDate")


def one_mdm_payload(evidence: Evidence) -> Finding:
    """The profile has one MDM payload."""

    def judge(profile: SentProfile) -> Finding | None:
        count = len(profile.of_type(MDM))
        return None if count == 1 else failed(f"one payload {MDM}", str(count or "none"), profile)

    return of_profiles(evidence, judge)


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
    """The Mac is asked to say when it is managed no more."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        found = payload.get("CheckOutWhenRemoved")
        return None if found is True else failed("CheckOutWhenRemoved true", shown(found), profile)

    return of_mdm(evidence, judge)


def top_level(evidence: Evidence) -> Finding:
    """The keys that every profile has at its top level."""

    def judge(profile: SentProfile) -> Finding | None:
        kind = profile.content.get("PayloadType")
        if kind != "Configuration":
            return failed("PayloadType Configuration at the top level", shown(kind), profile)
        return _common_keys(profile, profile.content, "the top level")

    return of_profiles(evidence, judge)


def payload_keys(evidence: Evidence) -> Finding:
    """The keys that every payload has."""

    def judge(profile: SentProfile) -> Finding | None:
        for payload in profile.payloads:
            found = _common_keys(profile, payload, f"the payload {shown(payload.get('PayloadType'))}")
            if found is not None:
                return found
        return None

    return of_profiles(evidence, judge)


def _common_keys(profile: SentProfile, content: Mapping[str, Any], where: str) -> Finding | None:
    for key in ("PayloadType", "PayloadIdentifier", "PayloadUUID"):
        value = content.get(key)
        if not isinstance(value, str) or not value:
            return failed(f"{key} of {where} as a string", shown(value), profile)
    version = content.get("PayloadVersion")
    if type(version) is not int or version != 1:
        return failed(f"PayloadVersion 1 of {where}", shown(version), profile)
    return None


def unique_uuids(evidence: Evidence) -> Finding:
    """No two payloads have the same PayloadUUID."""
    return _unique(evidence, "PayloadUUID")


def unique_identifiers(evidence: Evidence) -> Finding:
    """No two payloads have the same PayloadIdentifier."""
    return _unique(evidence, "PayloadIdentifier")


def _unique(evidence: Evidence, key: str) -> Finding:
    def judge(profile: SentProfile) -> Finding | None:
        values = [each[key] for each in profile.payloads if isinstance(each.get(key), str)]
        if key == "PayloadUUID":  # in any case
            values = [each.upper() for each in values]
        twice = [value for value, count in Counter(values).items() if count > 1]
        return failed(f"{key} of each payload of its own", f"{shown(twice[0])} twice", profile) if twice else None

    return of_profiles(evidence, judge)


def scope(evidence: Evidence) -> Finding:
    """The profile is installed for the system."""

    def judge(profile: SentProfile) -> Finding | None:
        found = profile.content.get("PayloadScope", "System")
        return None if found == "System" else failed("PayloadScope System", shown(found), profile)

    return of_profiles(evidence, judge)


def not_expired(evidence: Evidence) -> Finding:
    """The profile is still valid when it is sent."""

    def judge(profile: SentProfile) -> Finding | None:
        sent = datetime.fromtimestamp(profile.exchange.at, UTC).replace(tzinfo=None)
        for key in _ENDS:
            ends = profile.content.get(key)
            if isinstance(ends, datetime) and ends < sent:
                return failed(f"{key} in the future", f"{ends.isoformat()}Z", profile)
        return None

    return of_profiles(evidence, judge)


def media_type(evidence: Evidence) -> Finding:
    """The profile comes with Apple's media type."""
    profiles = fetched(evidence)
    for each in profiles:
        found = each.exchange.content_type
        if found != _MEDIA_TYPE:
            return failed(f"the Content-Type {_MEDIA_TYPE}", found or "no Content-Type", each)
    return passed(*profiles) if profiles else not_tested(NOT_FETCHED)


def _must(number: int, says: str, source: Source, check: Check, *profiles: str) -> Requirement:
    return _entry(number, Level.MUST, says, source, check, profiles or ("lom", "mdm"))


def _entry(
    number: int,
    level: Level,
    says: str,
    source: Source,
    check: Check,
    profiles: tuple[str, ...] = ("mdm",),
    needs: str | None = None,
) -> Requirement:
    return Requirement(
        f"MDM-ENROLL-{number:02}", level, says, source, profiles, ("enrollment-fetch",), check, needs=needs
    )


REQUIREMENTS = (
    _must(
        1,
        "The enrollment profile must have exactly one com.apple.mdm payload.",
        Source(MDM_PAYLOAD, "supportedOS macOS multiple"),
        one_mdm_payload,
    ),
    _must(
        2,
        "For LOM, AccessRights must contain 4 (device lock and passcode removal).",
        Source("commands/lom.setuprequest.yaml", "accessrights"),
        right_of_lom,
        "lom",
    ),
    _must(
        3,
        "AccessRights, if it is present, must be from 1 to 8191, with 1 if it has 2, and with 64 if it has 128.",
        Source(MDM_PAYLOAD, "AccessRights"),
        rights_are_valid,
    ),
    _must(4, "ServerURL must begin with https://.", Source(MDM_PAYLOAD, "ServerURL"), server_url_is_https),
    _must(
        5,
        "CheckInURL, if it is present, must begin with https://.",
        Source(MDM_PAYLOAD, "CheckInURL"),
        check_in_url_is_https,
    ),
    _must(6, "Topic must begin with com.apple.mgmt.", Source(MDM_PAYLOAD, "Topic"), topic),
    _must(
        7,
        "IdentityCertificateUUID must name a PKCS12, SCEP or ACME payload of the profile.",
        Source(MDM_PAYLOAD, "IdentityCertificateUUID"),
        identity_reference,
    ),
    _must(
        8,
        "Pinning UUIDs, if they are present, must name certificate payloads of the profile.",
        Source(MDM_PAYLOAD, ", ".join(PINS)),
        pinning_references,
    ),
    _must(
        9,
        "For Macs, ServerCapabilities must contain com.apple.mdm.per-user-connections.",
        Source(MDM_PAYLOAD, "ServerCapabilities"),
        per_user_connections,
    ),
    _entry(
        10,
        Level.SHOULD,
        "ServerCapabilities should contain com.apple.mdm.bootstraptoken, so that a Mac escrows its bootstrap token.",
        Source(MDM_PAYLOAD, "ServerCapabilities"),
        bootstrap_token,
        needs="bootstraptoken",
    ),
    _must(
        11,
        "At its top level the profile must have PayloadType Configuration, PayloadVersion 1, and a PayloadIdentifier "
        "and PayloadUUID.",
        Source(TOP_LEVEL, "PayloadType, PayloadVersion, PayloadIdentifier, PayloadUUID"),
        top_level,
        "mdm",
    ),
    _must(
        12,
        "Each payload must have a PayloadType, PayloadIdentifier and PayloadUUID, and PayloadVersion 1.",
        Source(COMMON_KEYS, "PayloadType, PayloadVersion, PayloadIdentifier, PayloadUUID"),
        payload_keys,
        "mdm",
    ),
    _must(
        13,
        "The PayloadUUID of each payload must be unique in the profile.",
        Source(COMMON_KEYS, "PayloadUUID"),
        unique_uuids,
        "mdm",
    ),
    _must(
        14,
        "The PayloadIdentifier of each payload must be unique in the profile.",
        Source(COMMON_KEYS, "PayloadIdentifier"),
        unique_identifiers,
        "mdm",
    ),
    _must(
        15,
        "PayloadScope, if it is present, must be System: the MDM payload is not for the user channel.",
        Source(TOP_LEVEL, f"PayloadScope; {MDM_PAYLOAD}, userchannel"),
        scope,
        "mdm",
    ),
    _entry(
        16,
        Level.SHOULD,
        f"The enrollment profile should have the Content-Type {_MEDIA_TYPE}.",
        Source("Apple Over-the-Air Profile Delivery and Configuration", "Profile Service Handlers", "archived"),
        media_type,
    ),
    _entry(
        23,
        Level.SHOULD,
        "An enrollment profile should not be past its PayloadExpirationDate or RemovalDate.",
        Source(TOP_LEVEL, "PayloadExpirationDate, RemovalDate"),
        not_expired,
    ),
    _entry(
        24,
        Level.SHOULD,
        "CheckOutWhenRemoved should be true, so that the server learns that a Mac is managed no more.",
        Source(REFERENCE, f"{BEST_PRACTICES}, Detecting Inactive Devices", REFERENCE_DATE),
        check_out,
    ),
    _must(
        26,
        "ServerCapabilities, if it is present, must contain known capabilities, each once.",
        Source(MDM_PAYLOAD, "ServerCapabilities"),
        capabilities_are_unique,
        "mdm",
    ),
    _must(
        27,
        "The keys of the com.apple.mdm payload must have the types of the schema.",
        Source(MDM_PAYLOAD, "type"),
        key_types,
        "mdm",
    ),
)
