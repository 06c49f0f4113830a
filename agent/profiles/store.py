"""The profiles installed on one Mac, by PayloadIdentifier, in the order of their installation.

Installation is atomic: everything is checked before anything changes. The store keeps only the parts of a profile that
later answers need, so not the PKCS12 and its password.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from sys import intern
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from agent.lom.endpoint import LOMConfiguration
from agent.mdm.results import PROFILE_NOT_INSTALLED, PROFILE_NOT_MANAGED, ChainedError, Domain
from agent.pki.certificates import read_certificate
from agent.pki.identity import Identity
from agent.profiles.certificates import Identities, all_certificates
from agent.profiles.enrollment import MDM
from agent.profiles.errors import ProfileError, malformed
from agent.profiles.lom import LOM, check_lom, lom_configuration_of
from agent.profiles.profile import Profile

_KINDS_OF_PROFILES = 256
_MARSHAL_VERSION = 2  # later versions write equal objects differently, as they are referred to
DECLARED_SOURCE = "Declarative Device Management"  # apple-schema commands/profile.list.yaml, Source
_LISTED_TEXTS = (
    "PayloadDisplayName",
    "PayloadOrganization",
    "PayloadDescription",
    "PayloadType",
    "PayloadUUID",
    "PayloadIdentifier",
)


class InstalledProfile(msgspec.Struct, frozen=True):
    """The stored parts of a profile."""

    identifier: str
    payload_types: frozenset[str]
    identities: tuple[Identity, ...]
    certificates: tuple[x509.Certificate, ...]
    """The CA certificates in its payloads."""
    signers: tuple[x509.Certificate, ...]
    """The certificates of its signature."""
    packed: bytes
    """Its item of ProfileList without the signers, serialised: a fifth of the memory of the dictionaries."""

    @property
    def is_declared(self) -> bool:
        """Whether a declaration installed it."""
        return bool(marshal.loads(self.packed).get("Source") == DECLARED_SOURCE)  # noqa: S302 - written by ``install``

    @property
    def listed(self) -> dict[str, Any]:
        """Its item of a ProfileList answer."""
        listed: dict[str, Any] = marshal.loads(self.packed)  # noqa: S302 - written by ``install``
        if self.signers:
            listed["SignerCertificates"] = [signer.public_bytes(Encoding.DER) for signer in self.signers]
        return listed


class ProfileStore:
    """The installed profiles. ``lom`` is the active LOM configuration, or None."""

    __slots__ = ("_profiles", "lom")

    def __init__(self) -> None:
        self._profiles: dict[str, InstalledProfile] = {}
        self.lom: LOMConfiguration | None = None

    @classmethod
    def of(cls, profiles: Iterable[InstalledProfile], lom: LOMConfiguration | None) -> ProfileStore:
        """A store with these profiles, which were installed before and are not checked again."""
        store = cls()
        store._profiles = {profile.identifier: profile for profile in profiles}
        store.lom = lom
        return store

    def __iter__(self) -> Iterator[InstalledProfile]:
        return iter(self._profiles.values())

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._profiles

    def check(self, profile: Profile) -> None:
        """Check that a profile can be installed once its identities are obtained. Raises ProfileError."""
        all_certificates(profile)
        check_lom(profile)
        for payload_type in (LOM, MDM):
            self._check_single(profile, payload_type)

    def install(self, profile: Profile, identities: Identities, source: str = "") -> None:
        """Install a profile with the identities of its payloads; replaces one with the same PayloadIdentifier.

        ``source`` is its Source in ProfileList: DECLARED_SOURCE, or none for a profile of the MDM server.
        Raises ProfileError and leaves the store unchanged.
        """
        self.check(profile)
        configuration = lom_configuration_of(profile, identities)
        replaced = self._profiles.get(profile.identifier)
        self._profiles[profile.identifier] = InstalledProfile(
            identifier=intern(profile.identifier),
            payload_types=_shared(frozenset(payload.payload_type for payload in profile.payloads)),
            identities=tuple(identities.values()),
            certificates=all_certificates(profile),
            signers=tuple(read_certificate(signer.public_bytes(Encoding.DER)) for signer in profile.signers),
            packed=_shared_item(
                marshal.dumps(_listed(profile) | ({"Source": source} if source else {}), _MARSHAL_VERSION)
            ),
        )
        if configuration is not None or (replaced is not None and LOM in replaced.payload_types):
            self.lom = configuration

    def check_owner(self, profile: Profile, source: str) -> bool:
        """Whether a declaration takes over the installed profile, which then stays as it is.

        It does where a command installed the profile: Apple wants the payloads to be the same ones. A command leaves a
        profile alone that a declaration installed. Raises ProfileError. ``source`` as for ``install``.
        """
        before = self._profiles.get(profile.identifier)
        if before is None or before.is_declared == bool(source):
            return False
        if before.is_declared:
            reason = f"the profile {profile.identifier[:200]} goes with its declaration"
            raise ProfileError(ChainedError(Domain.MDM, PROFILE_NOT_MANAGED, reason))
        if _structure(before.listed) != _structure(_listed(profile)):
            raise malformed(
                "expected the PayloadUUID, and the type, identifier and UUID of each payload, to be those of the "
                "profile that a command installed, found others"
            )
        return True

    def take_over(self, identifier: str, source: str) -> None:
        """Set the Source of an installed profile."""
        before = self._profiles[identifier]
        packed = marshal.dumps({**marshal.loads(before.packed), "Source": source}, _MARSHAL_VERSION)  # noqa: S302
        self._profiles[identifier] = replace(before, packed=_shared_item(packed))

    def remove(self, identifier: str) -> InstalledProfile:
        """Remove a profile and its configuration. Raises ProfileError if it is not installed."""
        profile = self._profiles.pop(identifier, None)
        if profile is None:
            raise ProfileError(
                ChainedError(Domain.MDM, PROFILE_NOT_INSTALLED, f"the profile {identifier[:200]} is not installed")
            )
        if LOM in profile.payload_types:
            self.lom = None
        return profile

    def _check_single(self, profile: Profile, payload_type: str) -> None:
        """Check that no other installed profile has a payload of this type. Raises ProfileError."""
        if profile.of_type(payload_type) is None:
            return
        for other in self._profiles.values():
            if other.identifier != profile.identifier and payload_type in other.payload_types:
                raise malformed(
                    f"a {payload_type} payload is installed already, by the profile {other.identifier}; a Mac has one"
                )


@lru_cache(_KINDS_OF_PROFILES)
def _shared(payload_types: frozenset[str]) -> frozenset[str]:
    """One shared set for all profiles with the same payload types, to save memory."""
    return payload_types


@lru_cache(_KINDS_OF_PROFILES)
def _shared_item(packed: bytes) -> bytes:
    """One shared item for all Macs with the same profile, to save memory."""
    return packed


def _structure(listed: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What names a profile in ProfileList, and each of its payloads, in order."""
    keys = ("PayloadUUID", "PayloadIdentifier", "PayloadType")
    return [tuple(each.get(key) for key in keys) for each in (listed, *listed["PayloadContent"])]


def _listed(profile: Profile) -> dict[str, Any]:
    """The item of ProfileList. Source: apple-schema commands/profile.list.yaml, responsekeys."""
    listed: dict[str, Any] = {
        **_common_keys(profile.content),
        "HasRemovalPasscode": False,
        "IsEncrypted": False,
        "PayloadContent": [_common_keys(payload.content) for payload in profile.payloads],
    }
    del listed["PayloadType"]
    return listed


def _common_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: content[key] for key in _LISTED_TEXTS if isinstance(content.get(key), str)}
    return {**texts, "PayloadVersion": content.get("PayloadVersion", 1)}
