"""The enrollment profile: the settings of its ``com.apple.mdm`` payload.

Source: apple-schema profiles/com.apple.mdm.yaml.
"""

from __future__ import annotations

from sys import intern

import msgspec
from cryptography import x509
from msgspec import structs

from agent.mdm.access_rights import ALL_RIGHTS, AccessRights, AccessRightsError, check_access_rights
from agent.mdm.facts import version
from agent.pki.identity import Identity
from agent.profiles.certificates import Identities, all_certificates, certificates_at, check_identity_at, identity_at
from agent.profiles.errors import malformed
from agent.profiles.policy import PerUserConnections
from agent.profiles.profile import Payload, Profile
from agent.profiles.urls import checked_url

MDM = "com.apple.mdm"
TOPIC_PREFIX = "com.apple.mgmt."
_IDENTITY = "IdentityCertificateUUID"
BOOTSTRAP_CAPABILITY = "com.apple.mdm.bootstraptoken"  # a server capability
PER_USER_CAPABILITY = "com.apple.mdm.per-user-connections"
TOKEN_CAPABILITY = "com.apple.mdm.token"  # noqa: S105 - a server capability
PER_USER_SINCE = "15.1"  # the oldest schema that was read; it says "must be present when managing … macOS devices"
ENROLLMENT_MODES = ("BYOD", "ADDE")


class EnrollmentTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of an enrollment profile, without the Mac's identity."""

    server_url: str
    check_in_url: str
    """CheckInURL; ServerURL if the profile has none."""
    topic: str
    access_rights: AccessRights
    anchors: tuple[x509.Certificate, ...] = ()
    """The CA certificates in the profile."""
    server_pins: tuple[x509.Certificate, ...] = ()
    """If not empty, the chain of ServerURL's server must contain one of these certificates."""
    check_in_pins: tuple[x509.Certificate, ...] = ()
    """If not empty, the chain of CheckInURL's server must contain one of these certificates."""
    sign_message: bool = False
    check_out_when_removed: bool = False
    capabilities: tuple[str, ...] = ()
    """ServerCapabilities."""
    assigned_managed_apple_id: str = ""
    """AssignedManagedAppleID; empty if the profile has none."""
    enrollment_mode: str = ""
    """EnrollmentMode; empty if the profile has none."""


class Enrollment(EnrollmentTerms, frozen=True, kw_only=True):
    """The settings of an enrollment profile, and the Mac's MDM identity."""

    identity: Identity


def mdm_payload_of(profile: Profile) -> Payload:
    """The profile's MDM payload. Raises ProfileError if there is none, or more than one."""
    payload = profile.of_type(MDM)
    if payload is None:
        raise malformed(f"the profile “{profile.name}” has no {MDM} payload, so a Mac cannot enroll with it")
    return payload


def enrollment_of(profile: Profile, identities: Identities) -> Enrollment:
    """Read an enrollment profile. Raises ProfileError if its MDM payload or identity is missing or invalid."""
    terms = enrollment_terms_of(profile)
    identity = identity_at(profile, mdm_payload_of(profile).require(_IDENTITY, str), _IDENTITY, identities)
    return Enrollment(identity=identity, **structs.asdict(terms))


def enrollment_terms_of(profile: Profile) -> EnrollmentTerms:
    """Read an enrollment profile without its identity; only the reference to it is checked. Raises ProfileError."""
    payload = mdm_payload_of(profile)
    server_url = checked_url(payload, payload.require("ServerURL", str), "ServerURL")
    topic = payload.require("Topic", str)
    if not topic.startswith(TOPIC_PREFIX):
        raise malformed(f"Topic: expected text that starts with {TOPIC_PREFIX}, found {topic[:80]}")
    check_identity_at(profile, payload.require(_IDENTITY, str), _IDENTITY)
    check_in_url = checked_url(payload, payload.get("CheckInURL", str) or server_url, "CheckInURL")
    return EnrollmentTerms(
        server_url=intern(server_url),  # the Macs of a fleet share these texts
        check_in_url=intern(check_in_url),
        topic=intern(topic),
        access_rights=_access_rights(payload),
        anchors=all_certificates(profile),
        server_pins=certificates_at(profile, payload, "ServerURLPinningCertificateUUIDs"),
        check_in_pins=certificates_at(profile, payload, "CheckInURLPinningCertificateUUIDs"),
        sign_message=payload.get("SignMessage", bool) or False,
        check_out_when_removed=payload.get("CheckOutWhenRemoved", bool) or False,
        capabilities=tuple(map(intern, payload.strings("ServerCapabilities"))),
        assigned_managed_apple_id=payload.get("AssignedManagedAppleID", str) or "",
        enrollment_mode=_enrollment_mode(payload),
    )


def check_per_user(terms: EnrollmentTerms, release: str, policy: PerUserConnections) -> str:
    """Check that a profile for Macs names the capability of user connections; returns a warning, or an empty text.

    Raises ProfileError from macOS PER_USER_SINCE on, unless ``policy`` makes it optional.
    Source: apple-schema profiles/com.apple.mdm.yaml, ServerCapabilities.
    """
    if PER_USER_CAPABILITY in terms.capabilities:
        return ""
    found = ", ".join(terms.capabilities)[:200] or "none"
    expected = (
        f"ServerCapabilities of the {MDM} payload: expected {PER_USER_CAPABILITY}, as for every Mac, found {found}"
    )
    if policy == "required" and version(release) >= version(PER_USER_SINCE):
        raise malformed(
            f"{expected}. Add it to the profile, or set fleet.per_user_connections to optional "
            "(--per-user-connections optional)"
        )
    return f"{expected}. Add it to the profile"


def check_update(before: EnrollmentTerms, after: EnrollmentTerms) -> None:
    """Check that the server may replace its enrollment profile by this one. Raises ProfileError.

    Source: apple-schema profiles/com.apple.mdm.yaml: "Any change is an error, and the update rejected".
    """
    for key, was, wanted in (
        ("Topic", before.topic, after.topic),
        ("ServerURL", before.server_url, after.server_url),
        ("CheckInURL", before.check_in_url, after.check_in_url),
        ("AssignedManagedAppleID", before.assigned_managed_apple_id, after.assigned_managed_apple_id),
        ("EnrollmentMode", before.enrollment_mode, after.enrollment_mode),
    ):
        if was != wanted:
            changed = f"{key} from {was[:200] or 'none'} to {wanted[:200] or 'none'}"
            raise malformed(f"an update of the {MDM} payload may not change {changed}")
    if (PER_USER_CAPABILITY in before.capabilities) != (PER_USER_CAPABILITY in after.capabilities):
        raise malformed(f"an update of the {MDM} payload may neither add nor remove {PER_USER_CAPABILITY}")
    added = after.access_rights & ~before.access_rights
    if added:
        raise malformed(f"an update of the {MDM} payload may not add the access rights {int(added)}")


def _enrollment_mode(payload: Payload) -> str:
    mode = payload.get("EnrollmentMode", str) or ""
    if mode and mode not in ENROLLMENT_MODES:
        raise malformed(f"EnrollmentMode: expected {' or '.join(ENROLLMENT_MODES)}, found {mode[:80]}")
    return mode


def _access_rights(payload: Payload) -> AccessRights:
    value = payload.get("AccessRights", int)
    if value is None:
        return ALL_RIGHTS
    try:
        return check_access_rights(value)
    except AccessRightsError as error:
        raise malformed(str(error)) from error
