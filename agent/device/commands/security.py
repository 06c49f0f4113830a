"""FileVault, Recovery Lock, firmware password, Activation Lock and Remote Desktop.

Source: apple-schema commands/rotate.file.vault.key.yaml, passcode.*.yaml, device.activationlock.*.yaml,
remotedesktop.*.yaml. Apple does not document the codes of their errors; those here are our choice.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from msgspec.structs import replace

from agent.device.commands.reading import (
    FORMAT_ERROR,
    MAX_TEXT,
    CommandRefused,
    mdm_error,
    one_of,
    optional,
    refusal,
    required,
)
from agent.device.derived import code, made_by_macos
from agent.device.mac import Device
from agent.device.security.filevault import encrypted_key, recovery_key
from agent.device.steps import ChangePower, CommandSteps, ReadDate
from agent.lom.power import SystemRequest
from agent.mdm.commands import Command
from agent.mdm.results import (
    INTERNAL_ERROR,
    INVALID_REQUEST_TYPE,
    MALFORMED_REQUEST,
    NOT_AUTHORIZED,
    Result,
    acknowledged,
)
from agent.pki.certificates import CertificateError, read_certificate
from agent.pki.scep.errors import SCEPError

THROTTLE_SECONDS = 30.0  # between two SetFirmwarePassword, and two VerifyFirmwarePassword
_BYPASS_CHARACTERS = "0123456789ACDEFGHJKLMNPQRTUVWXYZ"
_BYPASS_GROUPS = (5, 5, 4, 4, 4, 4)


# FileVault.


def rotate_filevault_key(device: Device, command: Command) -> Result:
    """Make a new recovery key. ``Password`` is the present personal recovery key: the Mac knows no user's password."""
    kind = required(device, command, "KeyType", str)
    one_of(kind, ("personal", "institutional"))
    unlock = required(device, command, "FileVaultUnlock", dict)
    vault = device.system.filevault
    if vault is None:
        return mdm_error(INVALID_REQUEST_TYPE, "RotateFileVaultKey: FileVault is off")
    if kind == "institutional":
        _certificate(required(device, command, "NewCertificate", bytes), "NewCertificate")
        _check_unlocks(device, unlock)
        device.system = replace(device.system, filevault=replace(vault, institutional=True))
        return acknowledged()
    reply_to = optional(device, command, "ReplyEncryptionCertificate", bytes)
    recipient = None if reply_to is None else _certificate(reply_to, "ReplyEncryptionCertificate")
    _check_unlocks(device, unlock)
    new = replace(vault, rotations=vault.rotations + 1, personal=True)
    answer: dict[str, Any] = {}
    if recipient is not None:
        try:
            sealed = encrypted_key(recovery_key(device, new), recipient)
        except SCEPError as error:
            return mdm_error(MALFORMED_REQUEST, f"ReplyEncryptionCertificate: {error}")
        answer = {"RotateResult": {"EncryptedNewRecoveryKey": sealed}}
    device.system = replace(device.system, filevault=new)
    return acknowledged(answer)


def _check_unlocks(device: Device, unlock: dict[str, Any]) -> None:
    password = unlock.get("Password")
    if not isinstance(password, str):
        raise CommandRefused(FORMAT_ERROR)
    vault = device.system.filevault
    if vault is None or not vault.personal or password != recovery_key(device, vault):
        raise refusal(NOT_AUTHORIZED, "RotateFileVaultKey: the password does not unlock FileVault")


def _certificate(octets: bytes, key: str) -> x509.Certificate:
    try:
        return read_certificate(octets)
    except CertificateError as error:
        raise refusal(MALFORMED_REQUEST, f"{key} is not a certificate: {error}") from error


# Recovery Lock, of a Mac with Apple silicon.


def set_recovery_lock(device: Device, command: Command) -> Result:
    """Set, change or clear the password of recoveryOS."""
    _need_apple_silicon(device, command)
    new = required(device, command, "NewPassword", str)
    current = optional(device, command, "CurrentPassword", str)
    if len(new) > MAX_TEXT:
        return FORMAT_ERROR
    if device.system.recovery_lock and current != device.system.recovery_lock:
        return mdm_error(NOT_AUTHORIZED, "SetRecoveryLock: CurrentPassword is not the password of Recovery Lock")
    device.system = replace(device.system, recovery_lock=new)
    return acknowledged()


def verify_recovery_lock(device: Device, command: Command) -> Result:
    """Whether a password is that of recoveryOS."""
    _need_apple_silicon(device, command)
    password = required(device, command, "Password", str)
    found = device.system.recovery_lock
    return acknowledged({"PasswordVerified": bool(found) and password == found})


def _need_apple_silicon(device: Device, command: Command, *, needed: bool = True) -> None:
    if device.mac.apple_silicon is not needed:
        chip = "Apple silicon" if needed else "an Intel processor"
        raise refusal(INVALID_REQUEST_TYPE, f"{command.request_type} is for a Mac with {chip}")


# Firmware password, of a Mac with an Intel processor.


def set_firmware_password(device: Device, command: Command) -> Result | CommandSteps:
    """Set, change or clear the firmware password: the Mac restarts, and has it then."""
    _need_apple_silicon(device, command, needed=False)
    new = required(device, command, "NewPassword", str)
    if len(new) > MAX_TEXT or not all(" " <= character <= "~" for character in new):
        return FORMAT_ERROR
    current = optional(device, command, "CurrentPassword", str)
    return _set_firmware_password(device, new, current, optional(device, command, "AllowOroms", bool))


def _set_firmware_password(device: Device, new: str, current: str | None, option_roms: bool | None) -> CommandSteps:
    now: float = yield ReadDate()
    firmware = device.system.firmware
    _throttle(now, firmware.set_at)
    if firmware.pending is not None:
        return mdm_error(INTERNAL_ERROR, "SetFirmwarePassword: a change is pending until the Mac has restarted")
    changes = not firmware.password or current == firmware.password
    firmware = replace(firmware, set_at=now)
    if changes:
        option_roms = firmware.option_roms if option_roms is None else option_roms
        firmware = replace(firmware, pending=new, pending_option_roms=option_roms)
        device.after_delivery(ChangePower(SystemRequest.RESTART))
    device.system = replace(device.system, firmware=firmware)
    return acknowledged({"SetFirmwarePassword": {"PasswordChanged": changes}})


def verify_firmware_password(device: Device, command: Command) -> CommandSteps:
    """Whether a password is the firmware password."""
    _need_apple_silicon(device, command, needed=False)
    password = required(device, command, "Password", str)
    now: float = yield ReadDate()
    firmware = device.system.firmware
    _throttle(now, firmware.verified_at)
    device.system = replace(device.system, firmware=replace(firmware, verified_at=now))
    verified = bool(firmware.password) and password == firmware.password
    return acknowledged({"VerifyFirmwarePassword": {"PasswordVerified": verified}})


def _throttle(now: float, before: float | None) -> None:
    if before is not None and now - before < THROTTLE_SECONDS:
        raise refusal(INTERNAL_ERROR, f"the last such command was less than {THROTTLE_SECONDS:g} seconds ago")


# Activation Lock and Remote Desktop.


def activation_lock_bypass_code(device: Device, _command: Command) -> Result:
    """The bypass code, made when the Mac was set up."""
    if device.system.activation_lock_cleared:
        return mdm_error(INTERNAL_ERROR, "ActivationLockBypassCode: the code was cleared")
    return acknowledged({"ActivationLockBypassCode": bypass_code(device)})


def bypass_code(device: Device) -> str:
    """The Activation Lock bypass code of this Mac until it is erased."""
    return code(made_by_macos(device, "bypass code"), _BYPASS_CHARACTERS, _BYPASS_GROUPS)


def clear_activation_lock_bypass_code(device: Device, _command: Command) -> Result:
    """Forget the bypass code."""
    device.system = replace(device.system, activation_lock_cleared=True)
    return acknowledged()


def enable_remote_desktop(device: Device, _command: Command) -> Result:
    """Turn Remote Desktop on."""
    device.system = replace(device.system, remote_desktop=True)
    return acknowledged()


def disable_remote_desktop(device: Device, _command: Command) -> Result:
    """Turn Remote Desktop off."""
    device.system = replace(device.system, remote_desktop=False)
    return acknowledged()
