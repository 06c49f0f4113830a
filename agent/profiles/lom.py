"""The ``com.apple.lom`` payload, which configures a Mac as LOM Device, Controller or both.

Source: apple-schema profiles/com.apple.lom.yaml.
"""

from __future__ import annotations

from agent.lom.endpoint import LOMConfiguration
from agent.pki.identity import Identity
from agent.profiles.certificates import Identities, certificates_at, check_identity_at, identity_at
from agent.profiles.errors import malformed, payload_failed
from agent.profiles.profile import Payload, Profile

LOM = "com.apple.lom"

_IDENTITIES = ("DeviceCertificateUUID", "ControllerCertificateUUID")
_ANCHORS = ("DeviceCACertificateUUIDs", "ControllerCACertificateUUIDs")


def check_lom(profile: Profile) -> None:
    """Check the references of the LOM payload, if the profile has one. Raises ProfileError."""
    payload = profile.of_type(LOM)
    if payload is None:
        return
    identities = {key: uuid for key in _IDENTITIES if (uuid := payload.get(key, str)) is not None}
    for key, uuid in identities.items():
        check_identity_at(profile, uuid, key)
    for key in _ANCHORS:
        certificates_at(profile, payload, key)
    if not identities:
        reason = "the payload has neither DeviceCertificateUUID nor ControllerCertificateUUID"
        raise malformed(reason).within(payload_failed(payload.name))


def lom_configuration_of(profile: Profile, identities: Identities) -> LOMConfiguration | None:
    """The configuration in the profile's LOM payload, or None if it has none. Raises ProfileError."""
    payload = profile.of_type(LOM)
    if payload is None:
        return None
    check_lom(profile)
    device_identity, controller_identity = (_identity(profile, payload, key, identities) for key in _IDENTITIES)
    device_anchors, controller_anchors = (certificates_at(profile, payload, key) for key in _ANCHORS)
    return LOMConfiguration(
        device_identity=device_identity,
        controller_identity=controller_identity,
        device_anchors=device_anchors,
        controller_anchors=controller_anchors,
    )


def _identity(profile: Profile, payload: Payload, key: str, identities: Identities) -> Identity | None:
    uuid = payload.get(key, str)
    return None if uuid is None else identity_at(profile, uuid, key, identities)
