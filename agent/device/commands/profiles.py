"""The commands for configuration profiles and certificates."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agent.device.commands.reading import FORMAT_ERROR, mdm_error
from agent.device.facts.supported import answer_keys
from agent.device.installing import profiles as installing
from agent.device.mac import Device
from agent.device.steps import CommandSteps, LeaveManagement
from agent.mdm.commands import Command
from agent.mdm.results import (
    IDENTIFIER_MISSING,
    PROFILE_NOT_MANAGED,
    ChainedError,
    Domain,
    Result,
    acknowledged,
    failed,
)
from agent.plists import PlistError, type_name
from agent.profiles.enrollment import MDM
from agent.profiles.errors import ProfileError, malformed

_PAYLOADS = "ProfileList/ProfileListItem/PayloadContent/PayloadContentItem"  # where the schema has the payloads' keys


def install_profile(device: Device, command: Command) -> Result | CommandSteps:
    """Install a profile, once its identities are obtained."""
    payload = command.body.get("Payload")
    if not isinstance(payload, bytes):
        return FORMAT_ERROR
    return _install(device, payload)


def _install(device: Device, payload: bytes) -> CommandSteps:
    try:
        yield from installing.install_profile(device, payload)
    except PlistError as error:
        return failed(*malformed(str(error)).chain)
    except ProfileError as error:
        return failed(*error.chain)
    return acknowledged()


def remove_profile(device: Device, command: Command) -> Result:
    """Remove a profile; with that of the enrollment, the server ends its own management."""
    identifier = command.body.get("Identifier")
    if not isinstance(identifier, str):  # the only required key for which the answer of a real Mac is known
        found = type_name(identifier)
        reason = f"RemoveProfile: expected a string for Identifier, found {found}"
        return failed(ChainedError(Domain.MDM_CLIENT, IDENTIFIER_MISSING, reason))
    if any(MDM in profile.payload_types and profile.identifier == identifier for profile in device.profiles):
        # The server ends its own management: the Mac delivers its answer first, then removes the enrollment.
        device.after_delivery(LeaveManagement())
        return acknowledged()
    if any(each.identifier == identifier and each.is_declared for each in device.profiles):
        return mdm_error(PROFILE_NOT_MANAGED, f"the profile {identifier[:200]} goes with its declaration")  # our choice
    try:
        installing.remove_profile(device, identifier)
    except ProfileError as error:
        return failed(*error.chain)
    return acknowledged()


def profile_list(device: Device, command: Command) -> Result:
    """The installed profiles; of their payloads the keys that this release of macOS has."""
    keys = answer_keys("ProfileList", _PAYLOADS, device.mac.os_version, command.channel)
    listed = [profile.listed for profile in device.profiles]
    for profile in listed:
        profile["PayloadContent"] = [
            {key: value for key, value in payload.items() if key in keys} for payload in profile["PayloadContent"]
        ]
    return acknowledged({"ProfileList": listed})


def certificate_list(device: Device, _command: Command) -> Result:
    """The certificates of the installed profiles, without those of declarations (as the schema says in words)."""
    certificates = [
        (certificate, is_identity)
        for profile in device.profiles
        if not profile.is_declared
        for certificate, is_identity in (
            *((certificate, False) for certificate in profile.certificates),
            *((identity.certificate, True) for identity in profile.identities),
        )
    ]
    return acknowledged(
        {
            "CertificateList": [
                {
                    "CommonName": _common_name(certificate),
                    "IsIdentity": is_identity,
                    "Data": certificate.public_bytes(Encoding.DER),
                }
                for certificate, is_identity in certificates
            ]
        }
    )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
