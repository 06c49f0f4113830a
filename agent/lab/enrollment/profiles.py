"""The lab's enrollment profiles as a Mac gets them: with the identity of one Mac, signed, and with the lab's defects.

The correct profile is made first (`agent.profiles.making`); a defect then changes one thing in it. No I/O.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent import plists
from agent.lab.defects import Defects
from agent.mdm.access_rights import ALL_RIGHTS, AccessRights
from agent.pki import der
from agent.pki.cms_signing import CONTENT_TYPE, DATA, MESSAGE_DIGEST, sign_attached, signed_data
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import SERVER_USAGE
from agent.profiles.making import pkcs12_payload

_SHA1 = "1.3.14.3.2.26"
_ECDSA_WITH_SHA1 = "1.2.840.10045.4.1"
_EXPIRED = datetime(2020, 1, 1)  # a date of a property list is UTC, without a zone

Dictionary = dict[str, Any]


class EnrollmentProfiles:
    """Makes the identity payloads, and finishes the profiles."""

    def __init__(self, authorities: Authorities, defects: Defects) -> None:
        self.defects = defects
        self._authorities = authorities
        self._signer = authorities.signer_identity()
        self._shared: Dictionary | None = None

    def pkcs12(self) -> Dictionary:
        """A PKCS12 payload with a new MDM identity."""
        if "enroll-shared-identity" in self.defects:
            self._shared = self._shared or pkcs12_payload(self._authorities)
            return self._shared
        if "enroll-server-auth" in self.defects:
            return pkcs12_payload(self._authorities, self._authorities.mdm_identity(SERVER_USAGE))
        if "enroll-identity-expired" in self.defects:
            past = datetime.now(UTC) - timedelta(minutes=30)
            return pkcs12_payload(self._authorities, self._authorities.mdm_identity(not_after=past))
        return pkcs12_payload(self._authorities)

    def finished(self, profile: bytes) -> bytes:
        """The profile as the server sends it."""
        if self.defects:
            profile = self._spoiled(profile)
        if "enroll-unsigned" in self.defects:
            return profile
        if "enroll-sha1" in self.defects:
            return _signed_with_sha1(profile, self._signer)
        signed = sign_attached(profile, self._signer.certificate, self._signer.key)
        if "enroll-signature-broken" in self.defects:
            signed = signed.replace(b"lom-agent lab enrollment", b"lom-agent lab Enrollment")
        return signed

    def _spoiled(self, profile: bytes) -> bytes:
        content = plists.load_dict(profile)
        parts = _Parts(content, *content["PayloadContent"])  # before a defect adds a payload or removes one
        for name, spoil in _SPOILS.items():
            if name in self.defects:
                spoil(parts)
        if "enroll-pinning-other" in self.defects:
            self._pin_another(parts)
        return plists.dump_xml(content)

    def _pin_another(self, parts: _Parts) -> None:
        """Pin a CA in the profile that did not issue the server's certificate."""
        other = {
            **parts.anchor,
            "PayloadUUID": _new_uuid(),
            "PayloadIdentifier": f"{parts.anchor['PayloadIdentifier']}.other",
            "PayloadContent": self._authorities.lom_device_anchor.public_bytes(Encoding.DER),
        }
        parts.top["PayloadContent"].append(other)
        for url in ("ServerURL", "CheckInURL"):
            parts.mdm[f"{url}PinningCertificateUUIDs"] = [other["PayloadUUID"]]


class _Parts(msgspec.Struct, frozen=True):
    """The dictionaries of a profile that a defect changes."""

    top: Dictionary
    anchor: Dictionary
    identity: Dictionary
    mdm: Dictionary


def _two_mdm(parts: _Parts) -> None:
    second = {**parts.mdm, "PayloadUUID": _new_uuid(), "PayloadIdentifier": f"{parts.mdm['PayloadIdentifier']}.second"}
    parts.top["PayloadContent"].append(second)


def _passcode_policy(parts: _Parts) -> None:
    payload = {**parts.anchor, "PayloadType": "com.apple.mobiledevice.passwordpolicy", "PayloadUUID": _new_uuid()}
    payload["PayloadIdentifier"] += ".passcode"
    del payload["PayloadContent"]
    parts.top["PayloadContent"].append(payload)


def _http(key: str) -> Callable[[_Parts], object]:
    return lambda parts: parts.mdm.update({key: parts.mdm[key].replace("https:", "http:")})


def _new_uuid() -> str:
    return str(uuid.uuid4()).upper()


_NOT_LOCK = int(ALL_RIGHTS & ~AccessRights.LOCK_DEVICE)
_INSTALL_WITHOUT_INSPECT = int(ALL_RIGHTS & ~AccessRights.INSPECT_PROFILES)
_PER_USER = "com.apple.mdm.per-user-connections"
_BOOTSTRAP = "com.apple.mdm.bootstraptoken"
_SPOILS: Mapping[str, Callable[[_Parts], object]] = {
    "enroll-two-mdm": _two_mdm,
    "enroll-no-lock-right": lambda parts: parts.mdm.update(AccessRights=_NOT_LOCK),
    "enroll-rights-invalid": lambda parts: parts.mdm.update(AccessRights=_INSTALL_WITHOUT_INSPECT),
    "enroll-http-url": _http("ServerURL"),
    "enroll-http-checkin": _http("CheckInURL"),
    "enroll-topic": lambda parts: parts.mdm.update(Topic="com.example.lom-agent-lab"),
    "enroll-identity-reference": lambda parts: parts.mdm.update(IdentityCertificateUUID=parts.anchor["PayloadUUID"]),
    "enroll-pinning-reference": lambda parts: parts.mdm.update(CheckInURLPinningCertificateUUIDs=[_new_uuid()]),
    "enroll-no-per-user": lambda parts: parts.mdm["ServerCapabilities"].remove(_PER_USER),
    "enroll-no-bootstrap": lambda parts: parts.mdm["ServerCapabilities"].remove(_BOOTSTRAP),
    "enroll-capability-twice": lambda parts: parts.mdm["ServerCapabilities"].append(_PER_USER),
    "enroll-key-type": lambda parts: parts.mdm.update(UseDevelopmentAPNS="false"),
    "enroll-no-checkout": lambda parts: parts.mdm.pop("CheckOutWhenRemoved"),
    "enroll-top-type": lambda parts: parts.top.update(PayloadType="Profile"),
    "enroll-scope-user": lambda parts: parts.top.update(PayloadScope="User"),
    "enroll-expired": lambda parts: parts.top.update(PayloadExpirationDate=_EXPIRED),
    "enroll-payload-keys": lambda parts: parts.anchor.pop("PayloadVersion"),
    "enroll-uuid-twice": lambda parts: parts.mdm.update(PayloadUUID=parts.anchor["PayloadUUID"]),
    "enroll-identifier-twice": lambda parts: parts.anchor.update(PayloadIdentifier=parts.mdm["PayloadIdentifier"]),
    "enroll-no-ca": lambda parts: parts.top["PayloadContent"].remove(parts.anchor),
    "enroll-user-enrollment": lambda parts: parts.mdm.update(EnrollmentMode="BYOD"),
    "enroll-managed-apple-id": lambda parts: parts.mdm.update(ManagedAppleID="name@example.com"),
    "enroll-more-payloads": _passcode_policy,
    "enroll-pkcs12-password": lambda parts: parts.identity.update(Password="of another file"),  # noqa: S106
}


def _signed_with_sha1(content: bytes, signer: Identity) -> bytes:
    """Like ``sign_attached``, with SHA-1. Raises TypeError for a key that is not EC."""
    if not isinstance(signer.key, ec.EllipticCurvePrivateKey):
        raise TypeError("the lab's signer has an EC key")
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    attributes = der.set_of(
        der.sequence(der.oid(CONTENT_TYPE), der.set_of(der.oid(DATA))),
        der.sequence(der.oid(MESSAGE_DIGEST), der.set_of(der.encode(der.OCTET_STRING, digest))),
    )
    signature = signer.key.sign(attributes, ec.ECDSA(hashes.SHA1()))  # noqa: S303
    algorithm = der.sequence(der.oid(_ECDSA_WITH_SHA1))
    return signed_data((signer.certificate,), der.sequence(der.oid(_SHA1)), attributes, algorithm, signature, content)
