"""What the checks and the probe of macOS 27 share: what its Macs do not support any more. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAJOR = 27
REMOVED: Mapping[str, Mapping[str, Any]] = {
    "AvailableOSUpdates": {},
    "OSUpdateStatus": {},
    "ScheduleOSUpdate": {"Updates": [{"InstallAction": "Default", "ProductVersion": "27.1"}]},
    "ScheduleOSUpdateScan": {"Force": False},
}
"""The commands that macOS 27 no longer has, with their other keys."""
QUERIES = ("OSUpdateSettings", "SoftwareUpdateDeviceID")
"""The queries of DeviceInformation that it no longer has."""
USER_CHANNEL = "TriggerEnhancedLogCollection"
"""A command of macOS 27 that is for the user channel only."""
