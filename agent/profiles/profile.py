"""A configuration profile: its own keys and its payloads, checked for what every profile must have.

Source: apple-schema profiles/TopLevel.yaml, profiles/CommonPayloadKeys.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cryptography import x509

from agent import plists
from agent.pki.cms import CMSError, looks_signed, open_signed
from agent.pki.names import ascii_upper, same_name
from agent.profiles.errors import malformed

ValueT = TypeVar("ValueT")

PROFILE_TYPE = "Configuration"


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload. ``content`` has all its keys, the common ones too."""

    payload_type: str
    uuid: str
    identifier: str
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What a person calls it."""
        name = self.content.get("PayloadDisplayName")
        return name if isinstance(name, str) and name else self.identifier

    def get(self, key: str, kind: type[ValueT]) -> ValueT | None:
        """The value of an optional key. Raises ProfileError where it has another type."""
        value = self.content.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise malformed(
                f"{key} of the payload {self.payload_type} has the wrong type: it is {plists.type_name(value)}"
            )
        return value

    def require(self, key: str, kind: type[ValueT]) -> ValueT:
        """The value of a required key. Raises ProfileError where it is absent or has another type."""
        value = self.get(key, kind)
        if value is None:
            raise malformed(f"the payload {self.payload_type} lacks the required key {key}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """The value of an optional array of strings, empty where it is absent. Raises ProfileError."""
        values = self.get(key, list) or []
        if not all(isinstance(value, str) for value in values):
            raise malformed(f"{key} of the payload {self.payload_type} should be an array of strings")
        return tuple(values)


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile and its payloads, in the order of the file.

    ``signers`` are the signer's certificate and those that came with it, where the profile was signed.
    """

    uuid: str
    identifier: str
    content: Mapping[str, Any]
    payloads: tuple[Payload, ...]
    signers: tuple[x509.Certificate, ...] = ()

    @property
    def name(self) -> str:
        """What a person calls it."""
        name = self.content.get("PayloadDisplayName")
        return name if isinstance(name, str) and name else self.identifier

    def payload(self, uuid: str) -> Payload:
        """The payload with this PayloadUUID. Raises ProfileError where a reference leads nowhere."""
        for payload in self.payloads:
            if same_name(payload.uuid, uuid):
                return payload
        raise malformed(f"the profile “{self.name}” refers to the payload {uuid[:80]}, which it does not contain")

    def of_type(self, payload_type: str) -> Payload | None:
        """The one payload of a type that may stand once, or None. Raises ProfileError where there are more."""
        found = [payload for payload in self.payloads if payload.payload_type == payload_type]
        if len(found) > 1:
            raise malformed(f"the profile “{self.name}” has {len(found)} payloads {payload_type}; one is allowed")
        return found[0] if found else None


def read_profile(blob: bytes) -> Profile:
    """Read a profile, plain or signed. Whether the signer is to be trusted is for the caller to judge.

    Raises PlistError where it is no plist, ProfileError where it is no profile or its signature does not hold.
    """
    if not looks_signed(blob):
        return parse_profile(blob)
    try:
        signed = open_signed(blob)
    except CMSError as error:
        raise malformed(f"the profile's signature does not hold: {error}") from error
    others = tuple(certificate for certificate in signed.certificates if certificate != signed.signer)
    return replace(parse_profile(signed.content), signers=(signed.signer, *others))


def parse_profile(blob: bytes) -> Profile:
    """Read a plain profile. Raises PlistError where it is no plist, ProfileError where it is no profile."""
    root = plists.load_dict(blob, what="profile")
    if root.get("PayloadType") != PROFILE_TYPE:
        raise malformed(f"the PayloadType of a profile should be {PROFILE_TYPE}")
    outer = _common(root, "the profile")
    contents = root.get("PayloadContent", [])
    if not isinstance(contents, list):
        raise malformed(f"the PayloadContent of a profile should be an array, but is {plists.type_name(contents)}")
    payloads = []
    for number, content in enumerate(contents):
        if not isinstance(content, dict):
            raise malformed(f"payload {number} should be a dictionary, but is {plists.type_name(content)}")
        payloads.append(_common(content, f"payload {number}"))
    uuids = [ascii_upper(payload.uuid) for payload in payloads]
    if len(set(uuids)) != len(uuids):
        raise malformed("two payloads of the profile have the same PayloadUUID")
    return Profile(outer.uuid, outer.identifier, root, tuple(payloads))


def _common(content: Mapping[str, Any], what: str) -> Payload:
    values = []
    for key in ("PayloadType", "PayloadUUID", "PayloadIdentifier"):
        value = content.get(key)
        if not isinstance(value, str) or not value:
            raise malformed(f"{key} of {what} should be a string, but is {plists.type_name(value)}")
        values.append(value)
    version = content.get("PayloadVersion", 1)
    if not isinstance(version, int) or isinstance(version, bool):
        raise malformed(f"PayloadVersion of {what} should be an integer, but is {plists.type_name(version)}")
    return Payload(values[0], values[1], values[2], content)
