"""DeviceInformation and SecurityInfo: the value of each key, and the access right that it needs.

Source: apple-schema commands/information.device.yaml, commands/information.security.yaml. Like a Mac, it omits keys
that are unknown, that its macOS or this model does not have, or for which the enrollment lacks the access right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from agent.device.facts.supported import (
    DEVICE_CHANNEL,
    USER_CHANNEL,
    Management,
    answer_keys,
    management_of,
    query_exists,
    query_right,
)
from agent.device.mac import Device
from agent.device.security.filevault import filevault_information
from agent.device.users.accounts import users_of
from agent.mdm.access_rights import AccessRights
from agent.profiles.enrollment import BOOTSTRAP_CAPABILITY

Value = Callable[[Device], Any]

_KEPT_PLANS = 64  # of different lists of queries, each for a release and a channel
_LONGEST_PLAN = 100  # queries of one that is kept

_LAST_SCAN = datetime(2025, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # plist dates are UTC without a time zone

# By model identifier: SoftwareUpdateDeviceID (the hardware model in Apple's update service), and a part number.
_HARDWARE: Mapping[str, tuple[str, str]] = {
    "MacPro7,1": ("J160AP", "Z0W3LL/A"),
    "Mac14,8": ("J180dAP", "Z171LL/A"),
    "Macmini9,1": ("J274AP", "MGNR3LL/A"),
    "Mac14,3": ("J473AP", "MMFJ3LL/A"),
    "Mac14,12": ("J474sAP", "MNH73LL/A"),
    "Mac16,10": ("J773gAP", "MU9D3LL/A"),
    "Mac16,11": ("J773sAP", "MCX44LL/A"),
    "Mac13,1": ("J375cAP", "MJMV3LL/A"),
    "Mac13,2": ("J375dAP", "MJMW3LL/A"),
    "Mac14,13": ("J475cAP", "MQH73LL/A"),
    "Mac14,14": ("J475dAP", "MQH63LL/A"),
    "Mac16,9": ("J575cAP", "MU963LL/A"),
    "Mac15,14": ("J575dAP", "MU973LL/A"),
}


def _last_scan(device: Device) -> datetime:
    """When the Mac looked for updates last."""
    at = device.system.scanned_at
    return _LAST_SCAN if at is None else datetime.fromtimestamp(at, UTC).replace(tzinfo=None)


def _push_token(device: Device) -> bytes | None:
    """That of the user channel. The schema's text has the access right, and that the device channel ignores the key."""
    of_user = device.channel == USER_CHANNEL and device.allows(AccessRights.DEVICE_INFORMATION)
    return device.push_token if of_user else None


# By key of the schema: the function that returns its value; None where this Mac does not have the key.
QUERIES: Mapping[str, Value] = {
    "AwaitingConfiguration": lambda device: device.settings.awaiting_configuration,
    "MDMOptions": lambda device: dict(device.settings.mdm_options),
    "OrganizationInfo": lambda device: (
        {key: value for key, value in device.settings.organization_info.items() if isinstance(value, str)} or None
    ),
    "ProvisioningUDID": lambda device: device.mac.provisioning_udid,
    "SoftwareUpdateDeviceID": lambda device: _HARDWARE[device.mac.model][0],
    "UDID": lambda device: device.mac.udid,
    "IsSupervised": lambda device: device.supervised,
    "ActiveManagedUsers": lambda device: [] if device.user is None else device.user.managed_ids,
    "AutoSetupAdminAccounts": lambda device: [
        {"GUID": user.guid, "shortName": user.name} for user in users_of(device) if user.automatic
    ],
    "AvailableDeviceCapacity": lambda device: device.mac.available_gb,
    "BuildVersion": lambda device: device.mac.build_version,
    "DeviceCapacity": lambda device: device.mac.capacity_gb,
    "DeviceName": lambda device: device.device_name,
    "EACSPreflight": lambda _: "success",  # the Mac Pro with an Intel processor has a T2 chip
    "HasBattery": lambda _: False,
    "HostName": lambda device: device.host_name,
    "IsActivationLockEnabled": lambda _: False,
    "IsActivationLockSupported": lambda _: True,
    "IsAppleSilicon": lambda device: device.mac.apple_silicon,
    "LocalHostName": lambda device: device.local_host_name,
    "Model": lambda device: device.mac.model,
    "ModelName": lambda device: device.mac.model_name,
    "ModelNumber": lambda device: _HARDWARE[device.mac.model][1] if device.mac.apple_silicon else None,
    "OSUpdateSettings": lambda device: {
        "IsDefaultCatalog": True,
        "PreviousScanDate": _last_scan(device),
        "PerformPeriodicCheck": True,
        "AutoCheckEnabled": True,
        "BackgroundDownloadEnabled": True,
        "AutomaticAppInstallationEnabled": False,
        "AutomaticOSInstallationEnabled": False,
        "AutomaticSecurityUpdatesEnabled": True,
    },
    "OSVersion": lambda device: device.mac.os_version,
    "PINRequiredForDeviceLock": lambda _: True,
    "PINRequiredForEraseDevice": lambda device: not device.mac.apple_silicon,
    "ProductName": lambda device: device.mac.model,
    "PushToken": _push_token,
    "SerialNumber": lambda device: device.mac.serial_number,
    "SupplementalBuildVersion": lambda device: device.mac.build_version,
    "SupportsLOMDevice": lambda device: device.mac.has_10gb,
    "SupportsiOSAppInstalls": lambda device: device.mac.apple_silicon,
    "SystemIntegrityProtectionEnabled": lambda _: True,
    "TimeZone": lambda device: device.mac.time_zone,
    "BluetoothMAC": lambda device: device.mac.bluetooth_mac,
    "EthernetMAC": lambda device: device.mac.macs[0],
    "WiFiMAC": lambda device: device.mac.wifi_mac,
    "iTunesStoreAccountIsActive": lambda _: False,
}


def device_information(device: Device, queries: Iterable[str], channel: str = DEVICE_CHANNEL) -> dict[str, Any]:
    """The values of the requested keys that this Mac has on ``channel`` and that the enrollment allows."""
    known = tuple(key for key in queries if key in QUERIES)
    plan = _plan if len(known) <= _LONGEST_PLAN else _plan.__wrapped__
    answers: dict[str, Any] = {}
    for key, value, right, shown in plan(known, device.mac.os_version, channel, management_of(device)):
        found = value(device) if right is None or device.allows(right) else None
        if isinstance(found, dict):  # a server can set keys that are not in the schema; they are not shown
            found = {name: each for name, each in found.items() if name in shown}
        if found is not None:
            answers[key] = found
    return answers


class _Query(NamedTuple):
    """A key, its value, the right that it needs, and the keys of its value where that is a dictionary."""

    key: str
    value: Value
    right: AccessRights | None
    shown: frozenset[str]


@lru_cache(maxsize=_KEPT_PLANS)
def _plan(queries: tuple[str, ...], release: str, channel: str, management: Management) -> tuple[_Query, ...]:
    """Those of ``queries`` that exist; kept, because a server asks all Macs for the same ones."""
    return tuple(
        _Query(key, QUERIES[key], query_right(key), _shown(key, release, channel))
        for key in queries
        if query_exists(key, release, channel, management)
    )


def _shown(key: str, release: str, channel: str) -> frozenset[str]:
    return answer_keys("DeviceInformation", f"QueryResponses/{key}", release, channel)


def security_information(device: Device, channel: str = DEVICE_CHANNEL) -> dict[str, Any]:
    """The dictionary ``SecurityInfo`` on ``channel``. Some keys are for Apple silicon only, others for Intel only."""
    keys = answer_keys("SecurityInfo", "SecurityInfo", device.mac.os_version, channel)
    return {key: value for key, value in _security_information(device).items() if key in keys}


def _security_information(device: Device) -> dict[str, Any]:
    silicon = device.mac.apple_silicon
    enrollment = device.enrollment
    escrows = enrollment is not None and device.supervised and BOOTSTRAP_CAPABILITY in enrollment.capabilities
    information: dict[str, Any] = {
        **filevault_information(device),
        "SystemIntegrityProtectionEnabled": True,
        "FirewallSettings": {
            "FirewallEnabled": False,
            "BlockAllIncoming": False,
            "StealthMode": False,
            "Applications": [],
            "LoggingEnabled": True,
            "LoggingOption": "throttled",
        },
        "ManagementStatus": {
            "EnrolledViaDEP": device.settings.automated,
            "UserApprovedEnrollment": True,
            "IsUserEnrollment": False,
            "IsActivationLockManageable": device.supervised,
        },
        "SecureBoot": {"SecureBootLevel": "full", "ExternalBootLevel": "disallowed"},
        "RemoteDesktopEnabled": device.system.remote_desktop,
        "AuthenticatedRootVolumeEnabled": True,
        "BootstrapTokenAllowedForAuthentication": ("allowed" if escrows else "disallowed")
        if silicon
        else "not supported",
    }
    if silicon:
        information["BootstrapTokenRequiredForSoftwareUpdate"] = True
        information["BootstrapTokenRequiredForKernelExtensionApproval"] = True
        information["IsRecoveryLockEnabled"] = bool(device.system.recovery_lock)
    else:
        firmware = device.system.firmware
        information["FirmwarePasswordStatus"] = {
            "PasswordExists": bool(firmware.password),
            "ChangePending": firmware.pending is not None,
            "AllowOroms": firmware.option_roms,
        }
    return information
