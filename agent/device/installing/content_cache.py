"""The payload com.apple.AssetCache.managed, which turns content caching on. Source: Apple's page of the payload."""

from __future__ import annotations

from msgspec.structs import replace

from agent.device.mac import Device
from agent.profiles.profile import Profile
from agent.profiles.store import InstalledProfile

CONTENT_CACHE = "com.apple.AssetCache.managed"


def install_content_cache(device: Device, profile: Profile) -> None:
    """Put the payload of an installed profile into effect. Raises ProfileError."""
    payload = profile.of_type(CONTENT_CACHE)
    if payload is not None:
        activated = payload.get("AutoActivation", bool) is True
        device.system = replace(device.system, content_caching=activated or device.system.content_caching)


def remove_content_cache(device: Device, removed: InstalledProfile) -> None:
    """A profile was removed: content caching is off where it had the payload (our choice)."""
    if CONTENT_CACHE in removed.payload_types:
        device.system = replace(device.system, content_caching=False)
