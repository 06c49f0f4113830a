"""Profiles and payloads to test with: one good one of each kind, and what a test wants to be different."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from agent.pki.identity import Identity, dump_pkcs12
from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE, Authority
from agent.plists import dump_xml
from agent.profiles.certificates import PKCS12, unpack_identity
from agent.profiles.enrollment import MDM
from agent.profiles.errors import ProfileError
from agent.profiles.lom import LOM
from agent.profiles.profile import Profile, parse_profile
from agent.profiles.scep import SCEP

PASSWORD = "correct horse"
ROOT = Authority.create("Profile Root")
OTHER_ROOT = Authority.create("Other Root")
IDENTITY = ROOT.issue("mac-1", CLIENT_USAGE)
LOM_IDENTITY = ROOT.issue("mac-1.lom.example.com", LOM_USAGE, names=["mac-1.lom.example.com"])
PACKED = dump_pkcs12(IDENTITY, PASSWORD, "mac-1")
LOM_PACKED = dump_pkcs12(LOM_IDENTITY, PASSWORD, "mac-1")


def payload(payload_type: str, uuid: str, **keys: Any) -> dict[str, Any]:
    """A payload of this type; ``keys`` with None are left out."""
    content = {
        "PayloadType": payload_type,
        "PayloadUUID": uuid,
        "PayloadIdentifier": f"com.example.{uuid}",
        "PayloadVersion": 1,
        **keys,
    }
    return {key: value for key, value in content.items() if value is not None}


def pkcs12(uuid: str = "IDENTITY", blob: Any = PACKED, password: Any = PASSWORD, **keys: Any) -> dict[str, Any]:
    return payload(PKCS12, uuid, PayloadContent=blob, Password=password, **keys)


def root(uuid: str = "ROOT", authority: Authority = ROOT, **keys: Any) -> dict[str, Any]:
    content = {"PayloadContent": authority.certificate.public_bytes(Encoding.DER), **keys}
    return payload("com.apple.security.root", uuid, **content)


def mdm(**keys: Any) -> dict[str, Any]:
    content = {
        "ServerURL": "https://mdm.example.com/mdm",
        "CheckInURL": "https://mdm.example.com/checkin",
        "Topic": "com.apple.mgmt.External.example",
        "IdentityCertificateUUID": "IDENTITY",
        "AccessRights": 8191,
        "ServerCapabilities": ["com.apple.mdm.per-user-connections"],
        **keys,
    }
    return payload(MDM, "MDM", **content)


def lom(uuid: str = "LOM", **keys: Any) -> dict[str, Any]:
    content = {
        "DeviceCertificateUUID": "IDENTITY",
        "ControllerCertificateUUID": "IDENTITY",
        "DeviceCACertificateUUIDs": ["ROOT"],
        "ControllerCACertificateUUIDs": ["ROOT"],
        **keys,
    }
    return payload(LOM, uuid, **content)


def scep(**keys: Any) -> dict[str, Any]:
    content = {
        "URL": "https://scep.example.com/scep?a=b",
        "Name": "CA",
        "Subject": [[["CN", "mac-1"]]],
        "Challenge": "secret",
        "Keysize": 2048,
        "Key Type": "RSA",
        "Key Usage": 5,
        **keys,
    }
    return payload(SCEP, "SCEP", PayloadContent={key: value for key, value in content.items() if value is not None})


def profile_dict(*payloads: dict[str, Any], **keys: Any) -> dict[str, Any]:
    content = {
        "PayloadType": "Configuration",
        "PayloadUUID": "PROFILE",
        "PayloadIdentifier": "com.example.profile",
        "PayloadVersion": 1,
        "PayloadDisplayName": "Example",
        "PayloadContent": list(payloads),
        **keys,
    }
    return {key: value for key, value in content.items() if value is not None}


def profile(*payloads: dict[str, Any], **keys: Any) -> Profile:
    return parse_profile(dump_xml(profile_dict(*payloads, **keys)))


def identities_of(found: Profile) -> dict[str, Identity]:
    """As a Mac unpacks them."""
    return {
        found_payload.uuid.upper(): unpack_identity(found_payload)
        for found_payload in found.payloads
        if found_payload.payload_type == PKCS12
    }


def codes(error: ProfileError) -> list[tuple[str, int]]:
    """Domain and code of each error of the chain, outermost first."""
    return [(link.domain.value, link.code) for link in error.chain]
