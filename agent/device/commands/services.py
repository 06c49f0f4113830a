"""Content caching, AirPlay mirroring and enhanced log collection.

Source: apple-schema commands/information.contentcaching.yaml, mirroring.*.yaml, trigger.enhanced.log.collection.yaml.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from agent.device.commands.reading import FORMAT_ERROR, optional, text
from agent.device.derived import made_by_macos
from agent.device.mac import Device
from agent.device.steps import CommandSteps, ReadDate
from agent.device.system import LogCollection
from agent.fleet.derivation import uuid_text
from agent.mdm.commands import Command
from agent.mdm.results import Result, acknowledged

_SCAN_SECONDS = range(10, 301)
_COUNTS = (
    "ActualCacheUsed",
    "CacheLimit",
    "CacheUsed",
    "PersonalCacheLimit",
    "PersonalCacheUsed",
    "TotalBytesDropped",
    "TotalBytesImported",
    "TotalBytesReturnedToChildren",
    "TotalBytesReturnedToClients",
    "TotalBytesReturnedToPeers",
    "TotalBytesStoredFromOrigin",
    "TotalBytesStoredFromParents",
    "TotalBytesStoredFromPeers",
)
_FREE_BYTES = 300_000_000_000
_PORT = 49152
_ENDS = {"test-token-failed": "failed"}  # of a session, by its token; any other token ends it as finished


def content_caching_information(device: Device, _command: Command) -> Result:
    """The state of content caching. A cache that is on has served nobody."""
    on = device.system.content_caching
    answer: dict[str, Any] = {
        "Activated": on,
        "Active": on,
        "CacheFree": _FREE_BYTES,
        "CacheStatus": "OK",
        "PersonalCacheFree": _FREE_BYTES,
        "Parents": [],
        "Peers": [],
        "Port": _PORT if on else 0,
        "PrivateAddresses": [],
        "RegistrationStatus": 1 if on else 0,
        "RestrictedMedia": False,
        "ServerGUID": uuid_text(made_by_macos(device, "content cache")[:16], 4),
        "StartupStatus": "OK" if on else "PENDING",
        "TetheratorStatus": 0,
        **dict.fromkeys(_COUNTS, 0),
    }
    return acknowledged({"StatusResponse": answer})


def request_mirroring(device: Device, command: Command) -> Result:
    """Look for an AirPlay destination. There is none."""
    if not (optional(device, command, "DestinationName", str) or optional(device, command, "DestinationDeviceID", str)):
        return FORMAT_ERROR
    seconds = optional(device, command, "ScanTime", int)
    if seconds is not None and seconds not in _SCAN_SECONDS:
        return FORMAT_ERROR
    return acknowledged({"MirroringResult": "DestinationNotFound"})


def stop_mirroring(_device: Device, _command: Command) -> Result:
    """Stop mirroring, which nothing has started."""
    return acknowledged()


def trigger_enhanced_log_collection(device: Device, command: Command) -> CommandSteps:
    """Run a session of enhanced log collection. The user consents and the logs are uploaded at once (our choice)."""
    token = text(device, command, "AppleCareToken")
    now: float = yield ReadDate()
    status = _ENDS.get(token, "finished")
    device.system = replace(device.system, log_collection=LogCollection(token=token, status=status, at=now))
    return acknowledged()


def cancel_enhanced_log_collection(_device: Device, _command: Command) -> Result:
    """Cancel the session. None is under way, as each ends at once."""
    return acknowledged()
