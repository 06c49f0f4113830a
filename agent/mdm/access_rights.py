"""AccessRights: what the enrollment allows the server to do. Source: apple-schema profiles/com.apple.mdm.yaml."""

from __future__ import annotations

from enum import IntFlag

from agent.errors import PeerError


class AccessRights(IntFlag):
    """The bits of ``AccessRights`` in a ``com.apple.mdm`` payload."""

    INSPECT_PROFILES = 1
    INSTALL_PROFILES = 2
    LOCK_DEVICE = 4  # DeviceLockAndRemovePasscode: also every LOM command
    ERASE_DEVICE = 8
    DEVICE_INFORMATION = 16
    NETWORK_INFORMATION = 32
    INSPECT_PROVISIONING = 64
    INSTALL_PROVISIONING = 128
    INSPECT_APPLICATIONS = 256
    RESTRICTIONS = 512
    SECURITY = 1024
    SETTINGS = 2048
    MANAGE_APPLICATIONS = 4096


ALL_RIGHTS = AccessRights(8191)


class AccessRightsError(PeerError):
    """An invalid value of AccessRights."""

    kind = "access_rights"


def check_access_rights(value: int) -> AccessRights:
    """The rights for a payload's integer. Raises AccessRightsError for 0, unknown bits, 2 without 1, 128 without 64."""
    if not 0 < value <= ALL_RIGHTS:
        raise AccessRightsError(f"Expected AccessRights from 1 to {int(ALL_RIGHTS)}, found {value}.")
    rights = AccessRights(value)
    if AccessRights.INSTALL_PROFILES in rights and AccessRights.INSPECT_PROFILES not in rights:
        raise AccessRightsError(
            f"Expected AccessRights with 2 (install profiles) to include 1 (inspect), found {value}."
        )
    if AccessRights.INSTALL_PROVISIONING in rights and AccessRights.INSPECT_PROVISIONING not in rights:
        raise AccessRightsError(
            f"Expected AccessRights with 128 (install provisioning) to include 64 (inspect), found {value}."
        )
    return rights
