"""FileVault: its recovery key, and the payloads that turn it on and escrow the key.

Source: Apple's pages of the payloads com.apple.MCX.FileVault2 and com.apple.security.FDERecoveryKeyEscrow;
apple-schema commands/information.security.yaml.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from agent.device.derived import code, made_by_macos
from agent.device.mac import Device
from agent.device.system import FileVault
from agent.pki.certificates import read_certificate
from agent.pki.scep.errors import SCEPError
from agent.profiles.certificates import certificate_of
from agent.profiles.profile import Payload, Profile
from agent.profiles.store import InstalledProfile

FILEVAULT = "com.apple.MCX.FileVault2"
ESCROW = "com.apple.security.FDERecoveryKeyEscrow"
_CHARACTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_GROUPS = (4,) * 6


def recovery_key(device: Device, vault: FileVault) -> str:
    """The personal recovery key, in the form of macOS."""
    return code(made_by_macos(device, f"recovery key {vault.rotations}"), _CHARACTERS, _GROUPS)


def encrypted_key(key: str, recipient: x509.Certificate) -> bytes:
    """The key as a CMS envelope. Raises SCEPError where the recipient's key is not RSA."""
    from agent.pki.scep.envelope import Cipher, close_envelope  # imported when it is used: a fast start

    return close_envelope(key.encode(), recipient, Cipher.AES_256_CBC)


def check_filevault(profile: Profile) -> None:
    """Check the FileVault payloads of a profile. Raises ProfileError."""
    vault, escrow = profile.of_type(FILEVAULT), profile.of_type(ESCROW)
    if vault is not None:
        vault.require("Enable", str)
    if escrow is not None:
        _escrow_certificate(profile, escrow)


def install_filevault(device: Device, profile: Profile) -> None:
    """Put the FileVault payloads of an installed profile into effect. FileVault is on at once (our choice)."""
    vault, escrow = profile.of_type(FILEVAULT), profile.of_type(ESCROW)
    if vault is not None and vault.require("Enable", str) == "On" and device.system.filevault is None:
        personal = vault.get("UseRecoveryKey", bool)
        device.system = replace(
            device.system,
            filevault=FileVault(
                personal=personal is not False, institutional="PayloadCertificateUUID" in vault.content
            ),
        )
    if escrow is not None:
        octets = _escrow_certificate(profile, escrow).public_bytes(Encoding.DER)
        device.system = replace(device.system, escrow=octets, escrow_profile=profile.identifier)


def _escrow_certificate(profile: Profile, escrow: Payload) -> x509.Certificate:
    key = "EncryptCertPayloadUUID"
    return certificate_of(profile.payload(escrow.require(key, str), key))


def remove_filevault(device: Device, removed: InstalledProfile) -> None:
    """A profile was removed: the recovery key is no longer escrowed where it had that payload; FileVault stays on."""
    if ESCROW in removed.payload_types and device.system.escrow_profile == removed.identifier:
        device.system = replace(device.system, escrow=b"", escrow_profile="")


def filevault_information(device: Device) -> dict[str, Any]:
    """The keys of SecurityInfo about FileVault."""
    state = device.system
    vault = state.filevault
    answer: dict[str, Any] = {
        "FDE_Enabled": vault is not None,
        "FDE_HasPersonalRecoveryKey": vault is not None and vault.personal,
        "FDE_HasInstitutionalRecoveryKey": vault is not None and vault.institutional,
    }
    if vault is not None and vault.personal and state.escrow:
        try:
            sealed = encrypted_key(recovery_key(device, vault), read_certificate(state.escrow))
        except SCEPError as error:
            device.warn(f"the recovery key cannot be encrypted for the server: {error}")
        else:
            answer["FDE_PersonalRecoveryKeyCMS"] = sealed
            answer["FDE_PersonalRecoveryKeyDeviceKey"] = device.mac.serial_number
    return answer
