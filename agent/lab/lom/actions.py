"""The lab's LOM actions: the LOM profile of a Mac, LOMSetupRequest, and LOMDeviceRequest from the Devices' answers. No
I/O.

As an operator's console has it: install the profile, set up, then power a Device through its Controller. Each action is
refused (409) until the one before it was answered. Source: Apple Platform Deployment, "LOM payload example
configuration and command issuance".
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from agent import plists
from agent.lab.defects import NONE, Defects
from agent.lab.lom.profile import spoiled_profile
from agent.lab.mdm.core import Lab, Refused
from agent.lab.stored.state import EnrolledMac
from agent.mdm.results import Status
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import LOM_USAGE
from agent.profiles.making import lom_profile

ACTIONS = ("PowerON", "PowerOFF", "Reset")
MOST_DEVICES = 1000  # of one request; ours
_LISTS = ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList")
_VERSION = "LOMProtocolVersion"


class LabLOM:
    """The LOM actions of a lab. What it knows of a Mac's LOM ends with the process: set up again after a restart."""

    def __init__(self, lab: Lab, authorities: Authorities, defects: Defects = NONE) -> None:
        self.defects = defects
        self._lab = lab
        self._authorities = authorities
        self._names: dict[str, str] = {}  # the DNS name of each Mac's identity, by UDID
        self._profiles: dict[str, str] = {}  # CommandUUID of the InstallProfile, by UDID
        self._setups: dict[str, str] = {}  # CommandUUID of the last LOMSetupRequest, by UDID

    def install(self, mac: EnrolledMac, dns_name: str, *, device: bool, controller: bool) -> str:
        """Queue the Mac's LOM profile; returns the CommandUUID. ``dns_name`` names its identities."""
        profile = self._profile(dns_name, device=device, controller=controller)
        command_uuid = self._lab.enqueue(mac.udid, {"RequestType": "InstallProfile", "Payload": profile})
        self._names[mac.udid] = dns_name
        self._profiles[mac.udid] = command_uuid
        return command_uuid

    def set_up(self, mac: EnrolledMac) -> str:
        """Queue LOMSetupRequest; returns the CommandUUID. Raises Refused without an installed LOM profile."""
        installed = self._answer(mac, self._profiles)
        if installed is None and "lom-setup-before-profile" not in self.defects:
            raise Refused(409, f"the LOM profile of {mac.udid} is not installed; install it first")
        request_type = "LOMSetuprequest" if "lom-setup-spelling" in self.defects else "LOMSetupRequest"
        command_uuid = self._lab.enqueue(mac.udid, {"RequestType": request_type})
        if "lom-addresses-old" not in self.defects or mac.udid not in self._setups:
            self._setups[mac.udid] = command_uuid
        return command_uuid

    def request(self, controller: EnrolledMac, action: str, devices: Sequence[EnrolledMac]) -> str:
        """Queue one LOMDeviceRequest for these Devices; returns the CommandUUID. Raises Refused."""
        if action not in ACTIONS:
            raise Refused(400, f"expected one of {', '.join(ACTIONS)} as the action, found {action[:80]!r}")
        if not 0 < len(devices) <= MOST_DEVICES:
            raise Refused(400, f"expected 1 to {MOST_DEVICES:,} devices, found {len(devices)}")
        command = self._request(action, devices)
        if "lom-other-controller" in self.defects:
            self._lab.enqueue(devices[0].udid, self._request(action, devices))
        if "lom-queue-lost-when-off" in self.defects and action == "PowerON":
            for mac in devices:
                for command_uuid in list(mac.queue):
                    self._lab.forget(mac.udid, command_uuid)
        return self._lab.enqueue(controller.udid, command)

    def _request(self, action: str, devices: Sequence[EnrolledMac]) -> dict[str, Any]:
        """LOMDeviceRequest. Raises Refused."""
        items = [self._item(mac, action) for mac in devices]
        if "lom-item-missing" in self.defects and len(items) > 1:
            items.pop()
        request_type = "LOMDevicerequest" if "lom-request-spelling" in self.defects else "LOMDeviceRequest"
        return {"RequestType": request_type, "RequestList": items}

    def _profile(self, dns_name: str, *, device: bool, controller: bool) -> bytes:
        usage = LOM_USAGE
        if "lom-key-usage" in self.defects:
            usage = replace(usage, key_encipherment=False, data_encipherment=False)
        if "lom-extended-key-usage" in self.defects:
            usage = replace(usage, server_auth=False)
        named = "lom-no-alternative-name" not in self.defects
        profile = lom_profile(self._authorities, dns_name, usage, device=device, controller=controller, named=named)
        return spoiled_profile(profile, dns_name, self._authorities, self.defects)

    def _item(self, mac: EnrolledMac, action: str) -> dict[str, Any]:
        setup = self._answer(mac, self._setups)
        if setup is None:
            failed = self._setups.get(mac.udid) in mac.results
            ignored = "lom-setup-error-ignored" if failed else "lom-request-before-setup"
            if ignored not in self.defects:
                raise Refused(409, f"{mac.udid} has not answered LOMSetupRequest; set it up first")
            setup = {"PrimaryIPv6AddressList": ["fe80::1"], "SecondaryIPv6AddressList": [], _VERSION: 1}
        item: dict[str, Any] = {
            "DeviceRequestType": action,
            "DeviceRequestUUID": str(uuid.uuid4()).upper(),
            "DeviceDNSName": self._names.get(mac.udid, mac.udid.lower()),
            **{key: setup[key] for key in (*_LISTS, _VERSION) if key in setup},
        }
        if "lom-uuid-by-action" in self.defects:
            item["DeviceRequestUUID"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{mac.udid}/{action}")).upper()
        return _spoiled(item, self.defects)

    def _answer(self, mac: EnrolledMac, commands: Mapping[str, str]) -> Mapping[str, Any] | None:
        """What the Mac answered to its command of ``commands``; None unless it acknowledged that."""
        result = mac.results.get(commands.get(mac.udid, ""))
        if result is None or result.status != Status.ACKNOWLEDGED.value:
            return None
        return plists.load_dict(result.body)


_MISSPELT = {"PowerON": "PowerOn", "PowerOFF": "PowerOff", "Reset": "reset"}


def _spoiled(item: dict[str, Any], defects: Defects) -> dict[str, Any]:
    """The item with the lab's defects."""
    if "lom-action-spelling" in defects:
        item["DeviceRequestType"] = _MISSPELT[item["DeviceRequestType"]]
    if "lom-no-secondary-list" in defects:
        del item["SecondaryIPv6AddressList"]
    if "lom-addresses-dropped" in defects:
        item["PrimaryIPv6AddressList"] = item["PrimaryIPv6AddressList"][1:]
    if "lom-version-string" in defects:
        item[_VERSION] = str(item[_VERSION])
    if "lom-version-fixed" in defects:
        item[_VERSION] = 99
    if "lom-name-is-host" in defects:
        item["DeviceDNSName"] = str(item["DeviceDNSName"]).partition(".")[0]
    if "lom-uuid-reused" in defects:
        item["DeviceRequestUUID"] = "5F0B6A1E-0000-4000-8000-000000000001"
    return item
