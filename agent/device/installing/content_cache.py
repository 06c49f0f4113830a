"""Content caching: the payload com.apple.AssetCache.managed, and the configuration that replaces it in macOS 27.

Source: Apple's pages of both. Without either of them content caching stays as it is.
"""

from __future__ import annotations

from msgspec.structs import replace

from agent.device.mac import Device
from agent.profiles.profile import Profile

CONTENT_CACHE = "com.apple.AssetCache.managed"


def install_content_cache(device: Device, profile: Profile) -> None:
    """Put the payload of an installed profile into effect. Raises ProfileError."""
    payload = profile.of_type(CONTENT_CACHE)
    if payload is not None:
        activates, denies = (payload.get(key, bool) is True for key in ("AutoActivation", "DenyActivation"))
        set_content_caching(device, activates=activates, denies=denies)


def set_content_caching(device: Device, *, activates: bool, denies: bool) -> None:
    """Turn content caching on where AutoActivation is set, and off where DenyActivation is, which overrides it."""
    if activates or denies:
        device.system = replace(device.system, content_caching=not denies)
