"""What a Mac makes anew after each erasure, and what it makes repeatedly: derived from the seed and a count."""

from __future__ import annotations

import hashlib

from agent.device.mac import Device

_LABEL = b"made by macOS"


def made_by_macos(device: Device, what: str) -> bytes:
    """64 bytes for ``what``, which names the value and says how often it was made before."""
    key = device.mac.source.digest(_LABEL, device.mac.index)
    return hashlib.blake2b(f"{device.system.erasures} {what}".encode(), key=key).digest()


def code(octets: bytes, characters: str, groups: tuple[int, ...]) -> str:
    """Groups of characters, separated by hyphens."""
    number = int.from_bytes(octets, "big")
    found = []
    for length in groups:
        group = ""
        for _ in range(length):
            number, place = divmod(number, len(characters))
            group += characters[place]
        found.append(group)
    return "-".join(found)
