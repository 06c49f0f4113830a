"""DeviceInformation: every key this Mac can answer, and the access right that each needs.

Source: apple-schema commands/information.device.yaml. A key that is not in the table, or that the enrolment does not
allow, is left out of the answer, as a Mac leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.device.mac import Device
from agent.mdm.access_rights import AccessRights

Value = Callable[[Device], Any]

_DEVICE: Mapping[str, Value] = {
    "BuildVersion": lambda device: device.mac.build_version,
    "DeviceName": lambda device: device.mac.device_name,
    "HasBattery": lambda _: False,
    "HostName": lambda device: device.mac.host_name,
    "IsActivationLockEnabled": lambda _: False,
    "IsAppleSilicon": lambda device: device.mac.apple_silicon,
    "IsMultiUser": lambda _: True,
    "IsSupervised": lambda _: True,
    "LocalHostName": lambda device: device.mac.host_name,
    "Model": lambda device: device.mac.model,
    "ModelName": lambda device: device.mac.model_name,
    "OSVersion": lambda device: device.mac.os_version,
    "ProductName": lambda device: device.mac.model,
    "SerialNumber": lambda device: device.mac.serial_number,
    "SupportsLOMDevice": lambda device: device.mac.has_10gb,
    "SystemIntegrityProtectionEnabled": lambda _: True,
}
_NETWORK: Mapping[str, Value] = {
    "BluetoothMAC": lambda device: device.mac.bluetooth_mac,
    "EthernetMAC": lambda device: device.mac.macs[0],
    "WiFiMAC": lambda device: device.mac.wifi_mac,
}
_ALWAYS: Mapping[str, Value] = {
    "UDID": lambda device: device.mac.udid,
}


def device_information(device: Device, queries: Iterable[str]) -> dict[str, Any]:
    """The values of the keys that were asked for, that a Mac has, and that the enrolment allows."""
    answers: dict[str, Any] = {}
    for key in queries:
        for table, right in (
            (_ALWAYS, None),
            (_DEVICE, AccessRights.DEVICE_INFORMATION),
            (_NETWORK, AccessRights.NETWORK_INFORMATION),
        ):
            if key in table and (right is None or device.allows(right)):
                answers[key] = table[key](device)
    return answers
