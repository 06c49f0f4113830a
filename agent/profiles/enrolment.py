"""The enrolment profile: what its ``com.apple.mdm`` payload binds a Mac to.

Source: apple-schema profiles/com.apple.mdm.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509

from agent.mdm.access_rights import ALL_RIGHTS, AccessRights, AccessRightsError, check_access_rights
from agent.pki.identity import Identity
from agent.profiles.certificates import all_certificates, identity_of
from agent.profiles.errors import malformed
from agent.profiles.profile import Payload, Profile

MDM = "com.apple.mdm"
TOPIC_PREFIX = "com.apple.mgmt."


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an enrolled Mac knows of its server. ``anchors`` are the profile's own CA certificates."""

    server_url: str
    check_in_url: str
    topic: str
    access_rights: AccessRights
    identity: Identity
    anchors: tuple[x509.Certificate, ...]


def enrolment_of(profile: Profile) -> Enrolment:
    """Read an enrolment profile. Raises ProfileError: no MDM payload, a value a Mac refuses, no such identity."""
    payload = profile.of_type(MDM)
    if payload is None:
        raise malformed(f"the profile “{profile.name}” has no {MDM} payload, so a Mac cannot enrol with it")
    server_url = _https(payload, payload.require("ServerURL", str), "ServerURL")
    topic = payload.require("Topic", str)
    if not topic.startswith(TOPIC_PREFIX):
        raise malformed(f"Topic should start with {TOPIC_PREFIX}, but is {topic[:80]}")
    return Enrolment(
        server_url=server_url,
        check_in_url=_https(payload, payload.get("CheckInURL", str) or server_url, "CheckInURL"),
        topic=topic,
        access_rights=_access_rights(payload),
        identity=identity_of(profile.payload(payload.require("IdentityCertificateUUID", str))),
        anchors=all_certificates(profile),
    )


def _access_rights(payload: Payload) -> AccessRights:
    value = payload.get("AccessRights", int)
    if value is None:
        return ALL_RIGHTS
    try:
        return check_access_rights(value)
    except AccessRightsError as error:
        raise malformed(str(error)) from error


def _https(payload: Payload, url: str, key: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or any(character.isspace() for character in url):
        raise malformed(f"{key} of the payload {payload.payload_type} should be an https URL, but is {url[:200]!r}")
    return url
