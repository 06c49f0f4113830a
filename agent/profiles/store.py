"""The profiles installed on one Mac, by PayloadIdentifier, in the order of their installation.

Installing is all or nothing: everything is checked before anything changes. What is kept of a profile is what later
answers need; the PKCS12 and its password are not.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.lom.endpoint import LOMConfiguration
from agent.mdm.results import PROFILE_NOT_INSTALLED, ChainedError, Domain
from agent.pki.certificates import read_certificate
from agent.pki.identity import Identity
from agent.profiles.certificates import Identities, all_certificates
from agent.profiles.enrolment import MDM
from agent.profiles.errors import ProfileError, malformed
from agent.profiles.lom import LOM, check_lom, lom_configuration_of
from agent.profiles.profile import Profile

_KINDS_OF_PROFILES = 256
_LISTED_TEXTS = (
    "PayloadDisplayName",
    "PayloadOrganization",
    "PayloadDescription",
    "PayloadType",
    "PayloadUUID",
    "PayloadIdentifier",
)


@dataclass(frozen=True, slots=True)
class InstalledProfile:
    """What a Mac keeps of a profile. ``signers`` are the certificates that it was signed with."""

    identifier: str
    payload_types: frozenset[str]
    identities: tuple[Identity, ...]
    certificates: tuple[x509.Certificate, ...]
    signers: tuple[x509.Certificate, ...]
    packed: bytes  # what is listed of it, but for the signers: a fifth of what the dictionaries would take

    @property
    def listed(self) -> dict[str, Any]:
        """Its item of a ProfileList answer."""
        listed: dict[str, Any] = marshal.loads(self.packed)  # noqa: S302 - octets of our own
        if self.signers:
            listed["SignerCertificates"] = [signer.public_bytes(Encoding.DER) for signer in self.signers]
        return listed


class ProfileStore:
    """What is installed. ``lom`` is the LOM configuration in force, or None."""

    __slots__ = ("_profiles", "lom")

    def __init__(self) -> None:
        self._profiles: dict[str, InstalledProfile] = {}
        self.lom: LOMConfiguration | None = None

    def __iter__(self) -> Iterator[InstalledProfile]:
        return iter(self._profiles.values())

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._profiles

    def check(self, profile: Profile) -> None:
        """Whether a profile can be installed once it has its identities. Raises ProfileError."""
        all_certificates(profile)
        check_lom(profile)
        for payload_type in (LOM, MDM):
            self._check_single(profile, payload_type)

    def install(self, profile: Profile, identities: Identities) -> None:
        """Install a profile with the identities of its payloads; one with the same PayloadIdentifier is replaced.

        Raises ProfileError, and then nothing has changed.
        """
        self.check(profile)
        configuration = lom_configuration_of(profile, identities)
        replaced = self._profiles.get(profile.identifier)
        self._profiles[profile.identifier] = InstalledProfile(
            identifier=profile.identifier,
            payload_types=_shared(frozenset(payload.payload_type for payload in profile.payloads)),
            identities=tuple(identities.values()),
            certificates=all_certificates(profile),
            signers=tuple(read_certificate(signer.public_bytes(Encoding.DER)) for signer in profile.signers),
            packed=marshal.dumps(_listed(profile)),
        )
        if configuration is not None or (replaced is not None and LOM in replaced.payload_types):
            self.lom = configuration

    def remove(self, identifier: str) -> InstalledProfile:
        """Take a profile and what it configured off the Mac. Raises ProfileError where it is not there."""
        profile = self._profiles.pop(identifier, None)
        if profile is None:
            raise ProfileError(
                ChainedError(Domain.MDM, PROFILE_NOT_INSTALLED, f"the profile {identifier[:200]} is not installed")
            )
        if LOM in profile.payload_types:
            self.lom = None
        return profile

    def _check_single(self, profile: Profile, payload_type: str) -> None:
        """A Mac has one payload of this type, in whichever profile."""
        if profile.of_type(payload_type) is None:
            return
        for other in self._profiles.values():
            if other.identifier != profile.identifier and payload_type in other.payload_types:
                raise malformed(
                    f"a {payload_type} payload is installed already, by the profile {other.identifier}; a Mac has one"
                )


@lru_cache(_KINDS_OF_PROFILES)
def _shared(payload_types: frozenset[str]) -> frozenset[str]:
    """The same set for all the profiles of a kind."""
    return payload_types


def _listed(profile: Profile) -> dict[str, Any]:
    """Source: apple-schema commands/profile.list.yaml, responsekeys."""
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
