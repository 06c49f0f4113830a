"""A configuration profile and its payloads, with checks of the keys that every profile must have.

Source: apple-schema profiles/TopLevel.yaml, profiles/CommonPayloadKeys.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from msgspec.structs import replace

from agent import plists
from agent.mdm.values import Warn, WrongType, converted, ignore_warning
from agent.pki.cms import CMSError, looks_encrypted, looks_signed, open_signed
from agent.pki.names import ascii_upper, same_name
from agent.pki.signatures import SHA1_ONLY
from agent.profiles.errors import ProfileError, malformed

ValueT = TypeVar("ValueT")

PROFILE_TYPE = "Configuration"
OVER_THE_AIR_TYPE = "Profile Service"


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload of a profile."""

    payload_type: str
    uuid: str
    identifier: str
    content: Mapping[str, Any]
    """All its keys, including the common ones."""
    warn: Warn = field(default=ignore_warning, compare=False, repr=False)
    """Called for each irregular value that is accepted."""

    @property
    def name(self) -> str:
        """PayloadDisplayName, or the identifier if there is none."""
        name = self.content.get("PayloadDisplayName")
        return name if isinstance(name, str) and name else self.identifier

    def get(self, key: str, kind: type[ValueT]) -> ValueT | None:
        """The value of an optional key, converted to ``kind`` where a Mac does so. Raises ProfileError."""
        value = self.content.get(key)
        if value is None:
            return None
        try:
            return converted(value, kind, f"{key} of the payload {self.payload_type}", self.warn)
        except WrongType as error:
            raise malformed(str(error)) from error

    def require(self, key: str, kind: type[ValueT]) -> ValueT:
        """The value of a required key. Raises ProfileError if it is absent or has another type."""
        value = self.get(key, kind)
        if value is None:
            raise malformed(f"the payload {self.payload_type} lacks the required key {key}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """The value of an optional array of strings, empty if it is absent. Raises ProfileError."""
        values = self.get(key, list) or []
        if not all(isinstance(value, str) for value in values):
            raise malformed(f"{key} of the payload {self.payload_type}: expected strings only, found other values")
        return tuple(values)


class Profile(msgspec.Struct, frozen=True):
    """A profile and its payloads."""

    uuid: str
    identifier: str
    content: Mapping[str, Any]
    payloads: tuple[Payload, ...]
    """In the order of the file."""
    signers: tuple[x509.Certificate, ...] = ()
    """For a signed profile: the signer's certificate, then the other certificates of the signature."""

    @property
    def name(self) -> str:
        """PayloadDisplayName, or the identifier if there is none."""
        name = self.content.get("PayloadDisplayName")
        return name if isinstance(name, str) and name else self.identifier

    def payload(self, uuid: str, key: str = "a payload") -> Payload:
        """The payload with this PayloadUUID, which ``key`` references. Raises ProfileError if there is none."""
        for payload in self.payloads:
            if same_name(payload.uuid, uuid):
                return payload
        raise malformed(
            f"{key} of the profile “{self.name}” refers to the payload {uuid[:80]}, which it does not contain"
        )

    def of_type(self, payload_type: str) -> Payload | None:
        """The payload of a type that may occur once, or None. Raises ProfileError if there are several."""
        found = [payload for payload in self.payloads if payload.payload_type == payload_type]
        if len(found) > 1:
            raise malformed(f"the profile “{self.name}” has {len(found)} payloads {payload_type}; one is allowed")
        return found[0] if found else None


def read_profile(blob: bytes, warn: Warn = ignore_warning) -> Profile:
    """Read a plain or signed profile. The caller decides whether to trust the signer.

    A signature with SHA-1 is accepted with a warning, as on a Mac: some servers produce no other. Raises PlistError if
    the content is not a property list, ProfileError if it is not a profile or its signature is invalid.
    """
    if looks_encrypted(blob):
        raise _encrypted("the profile", "it is a CMS EnvelopedData")
    if not looks_signed(blob):
        return parse_profile(blob, warn)
    try:
        signed = open_signed(blob, legacy=SHA1_ONLY)
    except CMSError as error:
        raise malformed(f"the profile's signature is invalid: {error}") from error
    profile = parse_profile(signed.content, warn)
    if signed.legacy:
        warn(f"the profile “{profile.name}” is signed with SHA-1; a Mac takes it, but sign it with SHA-256")
    others = tuple(certificate for certificate in signed.certificates if certificate != signed.signer)
    return replace(profile, signers=(signed.signer, *others))


def parse_profile(blob: bytes, warn: Warn = ignore_warning) -> Profile:
    """Read a plain profile. Raises PlistError if it is not a property list, ProfileError if it is not a profile."""
    root = plists.load_dict(blob, what="profile")
    _check_type(root)
    outer = _common(root, "the profile", warn)
    if "EncryptedPayloadContent" in root:
        raise _encrypted(f"the profile “{outer.name}”", "it has an EncryptedPayloadContent")
    contents = root.get("PayloadContent", [])
    if not isinstance(contents, list):
        raise malformed(f"PayloadContent of the profile: expected an array, found {plists.type_name(contents)}")
    payloads = []
    for number, content in enumerate(contents):
        if not isinstance(content, dict):
            raise malformed(f"payload {number}: expected a dictionary, found {plists.type_name(content)}")
        payloads.append(_common(content, f"payload {number}", warn))
    uuids = [ascii_upper(payload.uuid) for payload in payloads]
    if len(set(uuids)) != len(uuids):
        raise malformed("two payloads of the profile have the same PayloadUUID")
    return Profile(outer.uuid, outer.identifier, outer.content, tuple(payloads))


def _check_type(root: Mapping[str, Any]) -> None:
    found = root.get("PayloadType")
    if found == PROFILE_TYPE:
        return
    if found == OVER_THE_AIR_TYPE:
        raise malformed(
            f"expected a profile of the PayloadType {PROFILE_TYPE}, found a “{OVER_THE_AIR_TYPE}” profile: it only "
            "starts an over-the-air enrollment, which is not supported. Use the profile that the server sends at the "
            "end of it, with the com.apple.mdm payload"
        )
    shown = repr(found[:80]) if isinstance(found, str) else plists.type_name(found)
    raise malformed(f"PayloadType of the profile: expected {PROFILE_TYPE}, found {shown}")


def _encrypted(what: str, how: str) -> ProfileError:
    return malformed(
        f"{what} is encrypted for one device ({how}), and only that device can read it. "
        "Use the profile without encryption"
    )


def _common(content: Mapping[str, Any], what: str, warn: Warn) -> Payload:
    values = []
    for key in ("PayloadType", "PayloadUUID", "PayloadIdentifier"):
        value = content.get(key)
        if not isinstance(value, str) or not value:
            raise malformed(f"{key} of {what}: expected a string, found {plists.type_name(value)}")
        values.append(value)
    try:
        version = converted(content.get("PayloadVersion", 1), int, f"PayloadVersion of {what}", warn)
    except WrongType as error:
        raise malformed(str(error)) from error
    return Payload(values[0], values[1], values[2], {**content, "PayloadVersion": version}, warn)
