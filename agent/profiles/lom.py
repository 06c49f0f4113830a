"""The ``com.apple.lom`` payload: it makes a Mac a LOM Device, a Controller or both.

Source: apple-schema profiles/com.apple.lom.yaml.
"""

from __future__ import annotations

from agent.lom.network import LOMConfiguration
from agent.pki.identity import Identity
from agent.profiles.certificates import Identities, certificates_at, identity_at
from agent.profiles.errors import malformed, payload_failed
from agent.profiles.profile import Payload, Profile

LOM = "com.apple.lom"


def lom_configuration_of(profile: Profile, identities: Identities) -> LOMConfiguration | None:
    """What the profile's LOM payload says, or None where it has none. Raises ProfileError."""
    payload = profile.of_type(LOM)
    if payload is None:
        return None
    configuration = LOMConfiguration(
        device_identity=_identity(profile, payload, "DeviceCertificateUUID", identities),
        controller_identity=_identity(profile, payload, "ControllerCertificateUUID", identities),
        device_anchors=certificates_at(profile, payload.strings("DeviceCACertificateUUIDs")),
        controller_anchors=certificates_at(profile, payload.strings("ControllerCACertificateUUIDs")),
    )
    if configuration.device_identity is None and configuration.controller_identity is None:
        reason = "the payload has neither DeviceCertificateUUID nor ControllerCertificateUUID"
        raise malformed(reason).within(payload_failed(payload.name))
    return configuration


def _identity(profile: Profile, payload: Payload, key: str, identities: Identities) -> Identity | None:
    uuid = payload.get(key, str)
    return None if uuid is None else identity_at(profile, uuid, identities)
