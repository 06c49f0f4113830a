"""The provisioning profiles. Source: apple-schema commands/profile.provisioning.*.yaml."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from agent import plists
from agent.device.commands.reading import MAX_TEXT, flag, mdm_error, required, text
from agent.device.mac import Device
from agent.device.system import ProvisioningProfile
from agent.mdm.commands import Command
from agent.mdm.results import MALFORMED_REQUEST, PROVISIONING_PROFILE_NOT_MANAGED, Result, acknowledged
from agent.pki.cms import CMSError, looks_signed, open_signed
from agent.pki.signatures import SHA1_ONLY
from agent.plists import PlistError

_MAX_PROFILES = 1000  # ours


def install_provisioning_profile(device: Device, command: Command) -> Result:
    """Install a provisioning profile, or replace the one with its UUID. Its signer is not judged (docs/modelled.md)."""
    octets = required(device, command, "ProvisioningProfile", bytes)
    try:
        content = open_signed(octets, legacy=SHA1_ONLY).content if looks_signed(octets) else octets
        profile = _profile(plists.load_dict(content, what="provisioning profile"))
    except (CMSError, PlistError) as error:
        return mdm_error(MALFORMED_REQUEST, f"the provisioning profile cannot be read: {error}")
    if profile is None:
        return mdm_error(MALFORMED_REQUEST, "the provisioning profile: expected a Name and a UUID, found others")
    others = tuple(each for each in device.system.provisioning if each.uuid != profile.uuid)
    if len(others) >= _MAX_PROFILES:
        return mdm_error(MALFORMED_REQUEST, f"there are {_MAX_PROFILES} provisioning profiles already")
    device.system = replace(device.system, provisioning=(*others, profile))
    return acknowledged()


def _profile(content: dict[str, Any]) -> ProvisioningProfile | None:
    name, uuid, expires = content.get("Name"), content.get("UUID"), content.get("ExpirationDate")
    if not isinstance(name, str) or not isinstance(uuid, str) or not uuid or max(len(name), len(uuid)) > MAX_TEXT:
        return None
    at = expires.replace(tzinfo=UTC).timestamp() if isinstance(expires, datetime) else None
    return ProvisioningProfile(uuid=uuid, name=name, expires=at)


def provisioning_profile_list(device: Device, command: Command) -> Result:
    """The provisioning profiles; the server has installed each of them, so that ManagedOnly leaves none out."""
    flag(device, command, "ManagedOnly")
    return acknowledged({"ProvisioningProfileList": [_listed(profile) for profile in device.system.provisioning]})


def _listed(profile: ProvisioningProfile) -> dict[str, Any]:
    listed: dict[str, Any] = {"Name": profile.name, "UUID": profile.uuid}
    if profile.expires is not None:
        listed["ExpiryDate"] = datetime.fromtimestamp(profile.expires, UTC).replace(tzinfo=None)
    return listed


def remove_provisioning_profile(device: Device, command: Command) -> Result:
    """Remove a provisioning profile."""
    uuid = text(device, command, "UUID")
    left = tuple(each for each in device.system.provisioning if each.uuid != uuid)
    if len(left) == len(device.system.provisioning):
        reason = f"the provisioning profile {uuid[:80]} is not installed"
        return mdm_error(PROVISIONING_PROFILE_NOT_MANAGED, reason)
    device.system = replace(device.system, provisioning=left)
    return acknowledged()
