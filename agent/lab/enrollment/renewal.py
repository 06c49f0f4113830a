"""Renewal of an enrollment: an InstallProfile with the enrollment profile and a new identity. No I/O.

The new identity is that of an InstallProfile which is queued for the Mac. From the Mac's first message with it the Mac
has it, and no longer the one before. Source: apple-schema profiles/com.apple.mdm.yaml, "When updating the payload".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes

from agent import plists
from agent.errors import PeerError
from agent.lab.defects import Defects
from agent.lab.stored.state import EnrolledMac, QueuedCommand
from agent.profiles.acme import ACME, acme_of
from agent.profiles.certificates import PKCS12, unpack_identity
from agent.profiles.enrollment import mdm_payload_of
from agent.profiles.profile import read_profile
from agent.profiles.scep import scep_of

INSTALL = "InstallProfile"
_PER_USER = "com.apple.mdm.per-user-connections"
_ANOTHER_RIGHT = 1 << 13  # which no release has


def renews(mac: EnrolledMac, fingerprint: bytes, issued: Mapping[str, bytes]) -> bool:
    """Whether a certificate with this SHA-256 is the new identity in an InstallProfile that is queued for the Mac.

    ``issued`` has the SHA-256 of the certificates that were issued by SCEP or ACME, by challenge or client identifier.
    """
    queued = (each for each in mac.queue.values() if each.request_type == INSTALL)
    return any(_new_identity(each, issued) == fingerprint for each in queued)


def _new_identity(queued: QueuedCommand, issued: Mapping[str, bytes]) -> bytes | None:
    """SHA-256 of the certificate of the MDM identity in the profile; None if it is not known, or there is none."""
    blob = plists.load_dict(queued.body)["Command"].get("Payload")
    if not isinstance(blob, bytes):
        return None
    try:
        profile = read_profile(blob)
        payload = profile.payload(mdm_payload_of(profile).require("IdentityCertificateUUID", str))
        if payload.payload_type == PKCS12:
            return unpack_identity(payload).certificate.fingerprint(hashes.SHA256())
        if payload.payload_type == ACME:
            return issued.get(acme_of(payload).client_identifier)
        return issued.get(scep_of(payload).challenge or "")
    except PeerError:  # an operator may queue anything
        return None


def spoiled(profile: bytes, defects: Defects) -> bytes:
    """The profile of a renewal with the lab's defects."""
    content = plists.load_dict(profile)
    mdm: dict[str, Any] = content["PayloadContent"][-1]
    if "renew-topic-changed" in defects:
        mdm["Topic"] += ".new"
    if "renew-more-rights" in defects:
        mdm["AccessRights"] |= _ANOTHER_RIGHT
    if "renew-per-user-removed" in defects:
        mdm["ServerCapabilities"].remove(_PER_USER)
    if "renew-identifier-changed" in defects:
        content["PayloadIdentifier"] += ".new"
    return plists.dump_xml(content)
