"""The firmware password of a Mac with an Intel processor."""

from __future__ import annotations

from msgspec.structs import replace

from agent.device.mac import Device


def set_pending_firmware_password(device: Device) -> None:
    """The Mac has booted: a change of the firmware password takes effect."""
    firmware = device.system.firmware
    if firmware.pending is None:
        return
    changed = replace(
        firmware,
        password=firmware.pending,
        option_roms=firmware.pending_option_roms,
        pending=None,
        pending_option_roms=False,
    )
    device.system = replace(device.system, firmware=changed)
