"""What no Mac, or no Mac with its macOS, supports: the lab's API refuses such a command. No I/O.

Source: Apple's schema 27.0, commands/information.device.yaml, commands/trigger.enhanced.log.collection.yaml,
commands/cancel.enhanced.log.collection.yaml; commands/system.update.*.yaml are not in it any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.lab.defects import NONE, Defects
from agent.lab.mdm.users import is_user
from agent.lab.stored.state import EnrolledMac

_REMOVED_IN = 27  # the major version of macOS
_REMOVED = ("AvailableOSUpdates", "OSUpdateStatus", "ScheduleOSUpdate", "ScheduleOSUpdateScan")
_REMOVED_QUERIES = ("OSUpdateSettings", "SoftwareUpdateDeviceID")
_USER_CHANNEL = ("CancelEnhancedLogCollection", "TriggerEnhancedLogCollection")


def fault_of(command: Mapping[str, Any], mac: EnrolledMac, defects: Defects = NONE) -> str:
    """Why this Mac does not support a command; empty if it does, as far as the lab knows."""
    request_type = command.get("RequestType")
    if request_type in _USER_CHANNEL and not is_user(mac.udid) and "os27-user-command" not in defects:
        return f"{request_type} is a command of the user channel"
    if _major(mac.announcement.get("OSVersion")) < _REMOVED_IN:
        return ""
    if request_type in _REMOVED and "os27-removed-sent" not in defects:
        return f"{request_type} is removed in macOS {_REMOVED_IN}"
    asked = command.get("Queries")
    if request_type == "DeviceInformation" and isinstance(asked, list) and "os27-queries-sent" not in defects:
        found = [query for query in _REMOVED_QUERIES if query in asked]
        if found:
            return f"{', '.join(found)} of DeviceInformation: removed in macOS {_REMOVED_IN}"
    return ""


def _major(version: object) -> int:
    major = str(version).partition(".")[0]
    return int(major) if major.isascii() and major.isdigit() and len(major) < 4 else 0
