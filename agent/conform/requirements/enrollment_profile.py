"""Requirements of the enrollment profile as a whole: its type, its payloads, how it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.conform.reading.enrollment import (
    BEST_PRACTICES,
    CERTIFICATES,
    COMMON_KEYS,
    IDENTITIES,
    MDM,
    MDM_PAYLOAD,
    NOT_FETCHED,
    REFERENCE,
    REFERENCE_DATE,
    TOP_LEVEL,
    entry,
    fetched,
    must,
    of_profiles,
    shown,
)
from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.verdicts.requirement import Finding, Level, Source, failed, not_tested, passed

_MEDIA_TYPE = "application/x-apple-aspen-config"
_ENDS = ("PayloadExpirationDate", "RemovalDate")


def one_mdm_payload(evidence: Evidence) -> Finding:
    """The profile has one MDM payload."""

    def judge(profile: SentProfile) -> Finding | None:
        count = len(profile.of_type(MDM))
        return None if count == 1 else failed(f"one payload {MDM}", str(count or "none"), profile)

    return of_profiles(evidence, judge)


def only_the_basics(evidence: Evidence) -> Finding:
    """The profile contains what enrollment needs, and nothing else."""

    def judge(profile: SentProfile) -> Finding | None:
        for payload in profile.payloads:
            kind = payload.get("PayloadType")
            if kind != MDM and kind not in (*CERTIFICATES, *IDENTITIES):
                return failed(f"only certificates, identities and {MDM}", f"a payload {shown(kind)}", profile)
        return None

    return of_profiles(evidence, judge)


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


REQUIREMENTS = (
    must(
        1,
        "The enrollment profile must have exactly one com.apple.mdm payload.",
        Source(MDM_PAYLOAD, "supportedOS macOS multiple"),
        one_mdm_payload,
    ),
    must(
        11,
        "At its top level the profile must have PayloadType Configuration, PayloadVersion 1, and a PayloadIdentifier "
        "and PayloadUUID.",
        Source(TOP_LEVEL, "PayloadType, PayloadVersion, PayloadIdentifier, PayloadUUID"),
        top_level,
        "mdm",
    ),
    must(
        12,
        "Each payload must have a PayloadType, PayloadIdentifier and PayloadUUID, and PayloadVersion 1.",
        Source(COMMON_KEYS, "PayloadType, PayloadVersion, PayloadIdentifier, PayloadUUID"),
        payload_keys,
        "mdm",
    ),
    must(
        13,
        "The PayloadUUID of each payload must be unique in the profile.",
        Source(COMMON_KEYS, "PayloadUUID"),
        unique_uuids,
        "mdm",
    ),
    must(
        14,
        "The PayloadIdentifier of each payload must be unique in the profile.",
        Source(COMMON_KEYS, "PayloadIdentifier"),
        unique_identifiers,
        "mdm",
    ),
    must(
        15,
        "PayloadScope, if it is present, must be System: the MDM payload is not for the user channel.",
        Source(TOP_LEVEL, f"PayloadScope; {MDM_PAYLOAD}, userchannel"),
        scope,
        "mdm",
    ),
    entry(
        16,
        Level.SHOULD,
        f"The enrollment profile should have the Content-Type {_MEDIA_TYPE}.",
        Source("Apple Over-the-Air Profile Delivery and Configuration", "Profile Service Handlers", "archived"),
        media_type,
    ),
    entry(
        23,
        Level.SHOULD,
        "An enrollment profile should not be past its PayloadExpirationDate or RemovalDate.",
        Source(TOP_LEVEL, "PayloadExpirationDate, RemovalDate"),
        not_expired,
    ),
    entry(
        31,
        Level.SHOULD,
        "The enrollment profile should contain only certificates, the MDM identity and the com.apple.mdm payload.",
        Source(REFERENCE, f"{BEST_PRACTICES}, Initial Profiles Should Contain Only the Basics", REFERENCE_DATE),
        only_the_basics,
    ),
)
