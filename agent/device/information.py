"""DeviceInformation and SecurityInfo: the value of each key, and the access right that it needs.

Source: apple-schema commands/information.device.yaml, commands/information.security.yaml. Like a Mac, it omits keys
that are unknown, that this model does not have, or for which the enrollment lacks the access right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from agent.device.filevault import filevault_information
from agent.device.mac import Device
from agent.device.users import users_of
from agent.mdm.access_rights import AccessRights
from agent.profiles.enrollment import BOOTSTRAP_CAPABILITY

Value = Callable[[Device], Any]

CAPACITY_GB = 494.38  # a 500 GB disk as macOS reports it
AVAILABLE_GB = 431.07
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

_ALWAYS: Mapping[str, Value] = {
    "AwaitingConfiguration": lambda device: device.settings.awaiting_configuration,
    "MDMOptions": lambda device: dict(device.settings.mdm_options),
    "OrganizationInfo": lambda device: dict(device.settings.organization_info) or None,
    "ProvisioningUDID": lambda device: device.mac.udid,
    "PushToken": lambda device: device.mac.push_token,
    "SoftwareUpdateDeviceID": lambda device: _HARDWARE[device.mac.model][0],
    "UDID": lambda device: device.mac.udid,
    "IsSupervised": lambda _: True,
}
_DEVICE: Mapping[str, Value] = {
    "ActiveManagedUsers": lambda _: [],
    "AutoSetupAdminAccounts": lambda device: [
        {"GUID": user.guid, "shortName": user.name} for user in users_of(device) if user.automatic
    ],
    "AvailableDeviceCapacity": lambda _: AVAILABLE_GB,
    "BuildVersion": lambda device: device.mac.build_version,
    "DeviceCapacity": lambda _: CAPACITY_GB,
    "DeviceName": lambda device: device.device_name,
    "EACSPreflight": lambda device: "success" if device.mac.apple_silicon else "not supported",
    "HasBattery": lambda _: False,
    "HostName": lambda device: device.host_name,
    "IsActivationLockEnabled": lambda _: False,
    "IsActivationLockSupported": lambda _: True,
    "IsAppleSilicon": lambda device: device.mac.apple_silicon,
    "LocalHostName": lambda device: device.host_name,
    "Model": lambda device: device.mac.model,
    "ModelName": lambda device: device.mac.model_name,
    "ModelNumber": lambda device: _HARDWARE[device.mac.model][1],
    "OSUpdateSettings": lambda _: {
        "IsDefaultCatalog": True,
        "PreviousScanDate": _LAST_SCAN,
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
    "SerialNumber": lambda device: device.mac.serial_number,
    "SupplementalBuildVersion": lambda device: device.mac.build_version,
    "SupportsLOMDevice": lambda device: device.mac.has_10gb,
    "SupportsiOSAppInstalls": lambda device: device.mac.apple_silicon,
    "SystemIntegrityProtectionEnabled": lambda _: True,
}
_NETWORK: Mapping[str, Value] = {
    "BluetoothMAC": lambda device: device.mac.bluetooth_mac,
    "EthernetMAC": lambda device: device.mac.macs[0],
    "WiFiMAC": lambda device: device.mac.wifi_mac,
}
_APPLICATIONS: Mapping[str, Value] = {
    "iTunesStoreAccountIsActive": lambda _: False,
}

# By key: the access right that it needs, and the function that returns its value.
QUERIES: Mapping[str, tuple[AccessRights | None, Value]] = {
    **{key: (None, value) for key, value in _ALWAYS.items()},
    **{key: (AccessRights.DEVICE_INFORMATION, value) for key, value in _DEVICE.items()},
    **{key: (AccessRights.NETWORK_INFORMATION, value) for key, value in _NETWORK.items()},
    **{key: (AccessRights.MANAGE_APPLICATIONS, value) for key, value in _APPLICATIONS.items()},
}


def device_information(device: Device, queries: Iterable[str]) -> dict[str, Any]:
    """The values of the requested keys that this Mac has and that the enrollment allows."""
    answers: dict[str, Any] = {}
    for key in queries:
        right, value = QUERIES.get(key, (None, None))
        if value is None or not (right is None or device.allows(right)):
            continue
        found = value(device)
        if found is not None:
            answers[key] = found
    return answers


def security_information(device: Device) -> dict[str, Any]:
    """The dictionary ``SecurityInfo``. Some keys are for Apple silicon only, others for Intel only."""
    silicon = device.mac.apple_silicon
    enrollment = device.enrollment
    escrows = enrollment is not None and BOOTSTRAP_CAPABILITY in enrollment.capabilities
    information: dict[str, Any] = {
        **filevault_information(device),
        "SystemIntegrityProtectionEnabled": True,
        "FirewallSettings": {
            "FirewallEnabled": False,
            "BlockAllIncoming": False,
            "StealthMode": False,
            "Applications": [],
        },
        "ManagementStatus": {
            "EnrolledViaDEP": False,
            "UserApprovedEnrollment": True,
            "IsUserEnrollment": False,
            "IsActivationLockManageable": False,
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
