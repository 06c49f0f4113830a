"""Restart, shutdown, lock and erasure. Each takes effect once the server has accepted the answer."""

from __future__ import annotations

from agent.device.commands.reading import FORMAT_ERROR, CommandRefused, flag, one_of, optional
from agent.device.facts.information import QUERIES
from agent.device.mac import Device
from agent.device.steps import ChangePower, Erase
from agent.device.users.accounts import users_of
from agent.lom.power import SystemRequest
from agent.mdm.commands import Command
from agent.mdm.results import Result, acknowledged

_OBLITERATION = ("Default", "DoNotObliterate", "ObliterateWithWarning", "Always")
_PIN_CHARACTERS = 6  # PIN of DeviceLock and EraseDevice. Source: apple-schema commands/device.lock.yaml, PIN


def restart_device(device: Device, command: Command) -> Result:
    """Restart the Mac. With NotifyUser, a user who is logged in decides, and does not restart it (our choice)."""
    if not (flag(device, command, "NotifyUser") and any(user.logged_in for user in users_of(device))):
        device.after_delivery(ChangePower(SystemRequest.RESTART))
    return acknowledged()


def shut_down_device(device: Device, _command: Command) -> Result:
    """Shut the Mac down."""
    device.after_delivery(ChangePower(SystemRequest.SHUT_DOWN))
    return acknowledged()


def device_lock(device: Device, command: Command) -> Result:
    """Restart the Mac. The PIN counts as entered at once (our choice). Only Apple silicon shows a PhoneNumber."""
    _check_pin(device, command, "PINRequiredForDeviceLock")
    device.after_delivery(ChangePower(SystemRequest.RESTART))
    shows_text = "Message" in command.body or ("PhoneNumber" in command.body and device.mac.apple_silicon)
    return acknowledged({"MessageResult": "Success"} if shows_text else {})


def erase_device(device: Device, command: Command) -> Result:
    """Reset the Mac to its factory state."""
    _check_pin(device, command, "PINRequiredForEraseDevice")
    one_of(optional(device, command, "ObliterationBehavior", str), _OBLITERATION)
    device.after_delivery(Erase())
    return acknowledged()


def _check_pin(device: Device, command: Command, query: str) -> None:
    """Raise CommandRefused for a wrong PIN, or none where the Mac answers the query that it needs one."""
    pin = command.body.get("PIN")
    if pin is None and not QUERIES[query](device):
        return
    if not isinstance(pin, str) or len(pin) != _PIN_CHARACTERS:
        raise CommandRefused(FORMAT_ERROR)
