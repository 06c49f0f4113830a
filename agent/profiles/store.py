"""The profiles installed on one Mac, by PayloadIdentifier, in the order of their installation.

Installing is all or nothing: every payload is checked before anything changes.
"""

from __future__ import annotations

from typing import Any

from agent.lom.network import LOMConfiguration
from agent.mdm.results import PROFILE_NOT_INSTALLED, PROFILE_NOT_MANAGED, ChainedError, Domain
from agent.profiles.certificates import CERTIFICATES, PKCS12, certificate_of, identity_of
from agent.profiles.enrolment import MDM
from agent.profiles.errors import ProfileError, install_failed, malformed
from agent.profiles.lom import LOM, lom_configuration_of
from agent.profiles.profile import Profile, parse_profile

_LISTED = (
    "PayloadDisplayName",
    "PayloadOrganization",
    "PayloadDescription",
    "PayloadVersion",
    "PayloadUUID",
    "PayloadIdentifier",
)


class ProfileStore:
    """What is installed. ``lom`` is the LOM configuration in force, or None."""

    __slots__ = ("_profiles", "lom")

    def __init__(self) -> None:
        self._profiles: dict[str, Profile] = {}
        self.lom: LOMConfiguration | None = None

    def install_enrolment(self, profile: Profile) -> None:
        """Keep the profile that the Mac enrolled with; it cannot be removed by command."""
        self._profiles[profile.identifier] = profile

    def install(self, blob: bytes) -> Profile:
        """Check and install a profile; one with the same PayloadIdentifier is replaced.

        Raises PlistError, ProfileError, and then nothing has changed.
        """
        profile = parse_profile(blob)
        try:
            configuration = self._check(profile)
        except ProfileError as error:
            raise error.within(install_failed(profile.name)) from error
        replaced = self._profiles.get(profile.identifier)
        self._profiles[profile.identifier] = profile
        if configuration is not None or (replaced is not None and replaced.of_type(LOM) is not None):
            self.lom = configuration
        return profile

    def remove(self, identifier: str) -> Profile:
        """Take a profile and what it configured off the Mac. Raises ProfileError where it is not there."""
        profile = self._profiles.get(identifier)
        if profile is None:
            raise _refused(PROFILE_NOT_INSTALLED, f"the profile {identifier[:200]} is not installed")
        if profile.of_type(MDM) is not None:
            raise _refused(PROFILE_NOT_MANAGED, f"the profile {identifier[:200]} is the enrolment and is not managed")
        del self._profiles[identifier]
        if profile.of_type(LOM) is not None:
            self.lom = None
        return profile

    def listed(self) -> list[dict[str, Any]]:
        """The items of a ProfileList answer. Source: apple-schema commands/profile.list.yaml."""
        return [self._listed(profile) for profile in self._profiles.values()]

    def _check(self, profile: Profile) -> LOMConfiguration | None:
        if profile.of_type(MDM) is not None:
            raise malformed("an MDM payload cannot be installed by the server that it would replace")
        for payload in profile.payloads:
            if payload.payload_type == PKCS12:
                identity_of(payload)
            elif payload.payload_type in CERTIFICATES:
                certificate_of(payload)
        configuration = lom_configuration_of(profile)
        if configuration is not None:
            for other in self._profiles.values():
                if other.identifier != profile.identifier and other.of_type(LOM) is not None:
                    raise malformed(f"a {LOM} payload is installed already, by “{other.name}”; a Mac has one")
        return configuration

    @staticmethod
    def _listed(profile: Profile) -> dict[str, Any]:
        return {
            **{key: profile.content[key] for key in _LISTED if key in profile.content},
            "HasRemovalPasscode": False,
            "IsEncrypted": False,
            "PayloadContent": [
                {key: payload.content[key] for key in (*_LISTED, "PayloadType") if key in payload.content}
                for payload in profile.payloads
            ],
        }


def _refused(code: int, description: str) -> ProfileError:
    return ProfileError(ChainedError(Domain.MDM, code, description))
