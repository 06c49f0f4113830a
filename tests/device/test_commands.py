"""Every command of the table: its access right, its effect, and its answer checked by Apple's schema."""

from __future__ import annotations

import plistlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from apple_schema import problems
from command import lom_agent, lom_agent_here
from issued_once import IssuedOnce
from msgspec import structs
from msgspec.structs import replace

from agent.device.answering import OfflineMac, answer_command
from agent.device.commands import COMMANDS, carry_out
from agent.device.facts.information import QUERIES
from agent.device.facts.supported import DEVICE_CHANNEL, RIGHTS, USER_CHANNEL, command_problem
from agent.device.mac import Device
from agent.device.security.filevault import recovery_key
from agent.device.steps import ChangePower, Done, Erase, LeaveManagement, ReadDate, SynchroniseDeclarations, advance
from agent.device.system import MANAGED, App, FileVault, ProvisioningProfile, SystemState, User
from agent.device.users.accounts import users_of
from agent.fleet.population import Population
from agent.lom.power import SystemRequest
from agent.lom.requests import Dialect
from agent.mdm.access_rights import ALL_RIGHTS, AccessRights
from agent.mdm.commands import Command
from agent.mdm.facts import Fact, Key, message, messages, of_kind, version
from agent.mdm.results import Result, Status
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import LOM_IDENTIFIER, lom_profile

POPULATION = Population("commands", 40)
IN_PAIRS = Population("commands", 4, 2)  # for what makes all Macs of a segment
INTEL = Population("commands", 4, model="MacPro7,1")
APPLE_SILICON = Population("commands", 4, model="Mac16,10")
AUTHORITIES = Authorities()
LOM_AUTHORITIES = IssuedOnce.create("LOM Devices"), IssuedOnce.create("LOM Controllers")

HASH = plistlib.dumps({"SALTED-SHA512-PBKDF2": {"entropy": b"e", "salt": b"s", "iterations": 30_000}})
MANIFEST = {
    "items": [
        {
            "assets": [{"kind": "software-package", "url": "https://apps.invalid/tool.pkg", "sha256": "00"}],
            "metadata": {"kind": "software", "bundle-identifier": "com.example.tool", "title": "Tool"},
        }
    ]
}

# Request type: a usual command body, and the access right by its number.
USUAL: dict[str, tuple[dict[str, Any], int | None]] = {
    "AccountConfiguration": (
        {
            "SkipPrimarySetupAccountCreation": True,
            "AutoSetupAdminAccounts": [{"shortName": "support", "passwordHash": HASH}],
        },
        None,
    ),
    "ActivationLockBypassCode": ({}, None),
    "ActiveNSExtensions": ({}, 256),
    "AvailableOSUpdates": ({}, None),
    "CancelEnhancedLogCollection": ({}, None),
    "CertificateList": ({}, 1),
    "ClearActivationLockBypassCode": ({}, None),
    "ContentCachingInformation": ({}, 32),
    "DeclarativeManagement": ({}, None),
    "DeleteUser": ({"UserName": "second"}, None),
    "DeviceConfigured": ({}, None),
    "DeviceInformation": ({"Queries": list(QUERIES)}, None),
    "DeviceLock": ({"PIN": "123456", "Message": "Please return"}, 4),
    "DisableRemoteDesktop": ({}, None),
    "EnableRemoteDesktop": ({}, None),
    "EraseDevice": ({"PIN": "123456"}, 8),
    "InstallApplication": ({"iTunesStoreID": 361285480}, 4096),
    "InstallEnterpriseApplication": ({"Manifest": MANIFEST, "InstallAsManaged": True}, 4096),
    "InstallProfile": ({}, 2),
    "InstallProvisioningProfile": ({"ProvisioningProfile": plistlib.dumps({"Name": "n", "UUID": "u"})}, None),
    "InstalledApplicationList": ({}, 256),
    "InviteToProgram": ({"ProgramID": "com.apple.cloudvpp", "InvitationURL": "https://vpp.invalid"}, None),
    "LOMDeviceRequest": ({"RequestList": []}, 4),
    "LOMSetupRequest": ({}, 4),
    "ManagedApplicationConfiguration": ({"Identifiers": ["com.example.managed"]}, 4096),
    "ManagedApplicationFeedback": ({"Identifiers": ["com.example.managed"]}, 4096),
    "ManagedApplicationList": ({}, 4096),
    "NSExtensionMappings": ({}, 256),
    "OSUpdateStatus": ({}, None),
    "ProfileList": ({}, 1),
    "ProvisioningProfileList": ({}, None),
    "RemoveApplication": ({"Identifier": "com.example.managed"}, 4096),
    "RemoveProfile": ({"Identifier": LOM_IDENTIFIER}, 2),
    "RemoveProvisioningProfile": ({"UUID": "first"}, None),
    "RequestMirroring": ({"DestinationName": "Lobby"}, None),
    "RestartDevice": ({}, 4),
    "Restrictions": ({}, 512),
    "RotateFileVaultKey": ({"KeyType": "personal"}, 4),
    "ScheduleOSUpdate": ({"Updates": []}, None),
    "ScheduleOSUpdateScan": ({"Force": True}, None),
    "SecurityInfo": ({}, 1024),
    "SetAutoAdminPassword": ({"passwordHash": HASH}, None),
    "SetFirmwarePassword": ({"NewPassword": "firmware"}, 4),
    "SetRecoveryLock": ({"NewPassword": "recovery"}, 4),
    "Settings": ({"Settings": [{"Item": "DeviceName", "DeviceName": "Rack 7"}]}, 2048),
    "ShutDownDevice": ({}, 4),
    "StopMirroring": ({}, None),
    "TriggerEnhancedLogCollection": ({"AppleCareToken": "test-token-normal"}, None),
    "UnlockUserAccount": ({"UserName": "second"}, 4),
    "UserList": ({}, None),
    "VerifyFirmwarePassword": ({"Password": "firmware"}, None),
    "VerifyRecoveryLock": ({"Password": "recovery"}, 4),
}
UPDATE_COMMANDS = ("AvailableOSUpdates", "OSUpdateStatus", "ScheduleOSUpdate", "ScheduleOSUpdateScan")
ON_INTEL = ("SetFirmwarePassword", "VerifyFirmwarePassword")
ON_APPLE_SILICON = ("SetRecoveryLock", "VerifyRecoveryLock")
# Those that a Mac answers with an error where nothing was done before.
NEED_MORE = (
    "AccountConfiguration",
    "DeleteUser",
    "RemoveApplication",
    "RemoveProfile",
    "RemoveProvisioningProfile",
    "RotateFileVaultKey",
    "SetAutoAdminPassword",
    "UnlockUserAccount",
)


def standing(index: int = 0, request_type: str = "") -> Device:
    """An enrolled Mac with a LOM profile installed, of the kind that takes this command, and with what it needs."""
    device = prepared(index, request_type)
    assert run(device, "InstallProfile", {"Payload": profile(device)}).status is Status.ACKNOWLEDGED
    return device


def prepared(index: int, request_type: str) -> Device:
    """An enrolled Mac of the kind that takes this command, with what it needs, set up for LOM without a profile."""
    mac = POPULATION[index]
    if request_type in ON_INTEL or (request_type in ON_APPLE_SILICON and not mac.apple_silicon):
        mac = (INTEL if request_type in ON_INTEL else APPLE_SILICON)[index]
    if command_problem(request_type, mac.os_version, channel_of(request_type)) is not None:
        mac = mac.with_release(*(("26.2", "25C56") if request_type in UPDATE_COMMANDS else ("27.0", "26A428")))
    device = OfflineMac(mac, *LOM_AUTHORITIES, Dialect.SCHEMA).device
    device.settings.awaiting_configuration = request_type == "AccountConfiguration"
    device.system = SystemState(
        users=(*users_of(device), User(name="second", full_name="Second", uid=502, guid="2", automatic=True)),
        apps=(App(identifier="com.example.managed", status=MANAGED, managed=True, name="Managed", version="2.1"),),
        provisioning=(ProvisioningProfile(uuid="first", name="First", expires=2e9),),
        filevault=FileVault(),
    )
    return device


def channel_of(request_type: str) -> str:
    """A channel that takes the command: that of the device where both do."""
    known = of_kind("command").get(request_type)
    return DEVICE_CHANNEL if known is None or known.fact.is_on(DEVICE_CHANNEL) else USER_CHANNEL


def profile(device: Device) -> bytes:
    return lom_profile_of(device.mac.dns_name)


@cache
def lom_profile_of(dns_name: str) -> bytes:
    return lom_profile(AUTHORITIES, dns_name, device=True, controller=True)


def run(device: Device, request_type: str, body: dict[str, Any]) -> Result:
    """Carry out a command that needs no network."""
    command = {"RequestType": request_type, **body}
    outcome = carry_out(device, Command("uuid", request_type, command, channel_of(request_type)))
    if isinstance(outcome, Result):
        return outcome
    end = advance(outcome, None)
    while not isinstance(end, Done):
        end = advance(outcome, 1.8e9 if isinstance(end, ReadDate) else [])
    result: Result = end.value
    return result


def body_of(request_type: str, device: Device) -> dict[str, Any]:
    body = dict(USUAL[request_type][0])
    match request_type:
        case "InstallProfile":
            body["Payload"] = profile(device)
        case "RotateFileVaultKey":
            body["FileVaultUnlock"] = {"Password": recovery_key(device, FileVault())}
        case "SetAutoAdminPassword":
            body["GUID"] = "2"
    return body


def with_rights(device: Device, rights: AccessRights) -> Device:
    assert device.enrollment is not None
    device.enrollment = structs.replace(device.enrollment, access_rights=rights)
    return device


def test_the_table_has_every_documented_command() -> None:
    assert set(COMMANDS) == set(USUAL)
    documented = {
        name
        for (kind, name), found in messages().items()
        if kind == "command" and not (found.fact.removed and version(found.fact.removed) <= version("13"))
    }
    assert set(COMMANDS) == documented | {"Restrictions"}


@pytest.mark.parametrize("request_type", USUAL)
@pytest.mark.parametrize("index", [0, 1])
def test_each_answer_conforms_to_the_schema(request_type: str, index: int) -> None:
    device = standing(index, request_type)
    result = run(device, request_type, body_of(request_type, device))
    assert result.status is Status.ACKNOWLEDGED, result.errors
    assert answer_problems(device, request_type, result, channel_of(request_type)) == []


def answer_problems(device: Device, request_type: str, result: Result, channel: str) -> list[str]:
    """What is wrong with an answer by Apple's schema, for the Mac's release of macOS."""
    answer = plistlib.loads(result.body(device.mac.udid, "uuid"))
    common = (answer.pop("CommandUUID"), answer.pop("UDID"), answer.pop("Status"))
    if common != ("uuid", device.mac.udid, "Acknowledged"):
        return [f"{common}: {result.errors}"]
    if request_type == "Restrictions":  # not in the schema for macOS
        return [] if answer == {"GlobalRestrictions": {}} else [str(answer)]
    keys, release = message("command", request_type).response, device.mac.os_version
    found: list[str] = []
    if request_type == "Settings":  # the schema's text calls it a dictionary; devices send an array of dictionaries
        known = {**keys["Settings"].keys, "Item": ITEM}
        found = [problem for item in answer.pop("Settings") for problem in problems(item, known, release=release)]
    if request_type == "ManagedApplicationList":  # its keys are the identifiers of the apps
        (answer,) = answer["ManagedApplicationList"].values()
        keys = keys["ManagedApplicationList"].keys["ANY app identifier"].keys
    return found + problems(answer, keys, release=release, channel=channel)


ITEM = Key(Fact("command", "Settings", "response", "Settings/Item", "string"))


def test_schema_check_finds_violations() -> None:
    keys = message("command", "LOMSetupRequest").response
    good = {"PrimaryIPv6AddressList": ["fe80::1"], "SecondaryIPv6AddressList": [], "LOMProtocolVersion": 1}
    assert problems(good, keys) == []
    assert problems({**good, "LOMProtocolVersion": True}, keys)
    assert problems({**good, "PrimaryIPv6AddressList": [1]}, keys)
    assert problems({**good, "Extra": 1}, keys)
    assert problems({key: value for key, value in good.items() if key != "LOMProtocolVersion"}, keys)


@pytest.mark.parametrize("request_type", USUAL)
def test_the_access_rights_are_those_of_the_schema(request_type: str) -> None:
    known = of_kind("command").get(request_type)
    if known is not None:
        assert COMMANDS[request_type].right == RIGHTS.get(known.fact.rights)


@pytest.mark.parametrize("request_type", [name for name, usual in USUAL.items() if usual[1] is not None])
def test_each_command_needs_its_access_right(request_type: str) -> None:
    right = AccessRights(USUAL[request_type][1] or 0)
    device = with_rights(standing(0, request_type), ALL_RIGHTS & ~right)
    refused = run(device, request_type, body_of(request_type, device))
    assert refused.status is Status.ERROR
    assert [(error.domain.value, error.code) for error in refused.errors] == [("MCMDMErrorDomain", 12007)]
    assert device.take_follow_ups() == []
    device = with_rights(standing(0, request_type), right)
    assert run(device, request_type, body_of(request_type, device)).status is Status.ACKNOWLEDGED


def test_an_unknown_request_is_error_12021_with_its_name() -> None:
    result = run(standing(), "FlyToTheMoon", {})
    assert result.status is Status.ERROR
    assert [(error.domain.value, error.code) for error in result.errors] == [("MCMDMErrorDomain", 12021)]
    assert "FlyToTheMoon" in result.errors[0].description


@pytest.mark.parametrize(
    ("request_type", "body"),
    [
        ("DeviceInformation", {}),
        ("DeviceInformation", {"Queries": "UDID"}),
        ("DeviceInformation", {"Queries": [1]}),
        ("InstallProfile", {}),
        ("InstallProfile", {"Payload": "text"}),
        ("Settings", {}),
        ("Settings", {"Settings": {}}),
        ("Settings", {"Settings": ["DeviceName"]}),
        ("DeviceLock", {"PIN": "12345"}),
        ("DeviceLock", {"PIN": 123456}),
        ("DeviceLock", {}),
        ("EraseDevice", {"PIN": ""}),
        ("EraseDevice", {"PIN": "123456", "ObliterationBehavior": "Sometimes"}),
        ("InstalledApplicationList", {"Identifiers": "com.apple.Safari"}),
        ("DeclarativeManagement", {"Data": "text"}),
        ("LOMDeviceRequest", {}),
    ],
)
def test_a_malformed_command_is_a_format_error_and_changes_nothing(request_type: str, body: dict[str, Any]) -> None:
    device = standing()
    before = [installed.listed for installed in device.profiles]
    assert run(device, request_type, body).status is Status.COMMAND_FORMAT_ERROR
    assert device.take_follow_ups() == []
    assert [installed.listed for installed in device.profiles] == before


@pytest.mark.parametrize("body", [{}, {"Identifier": 1}])
def test_remove_profile_without_identifier_gives_the_error_of_macos(body: dict[str, Any]) -> None:
    device = standing()
    before = [installed.listed for installed in device.profiles]
    result = run(device, "RemoveProfile", body)
    assert result.status is Status.ERROR
    assert [(error.domain.value, error.code) for error in result.errors] == [("MDMClientError", 97)]
    assert "Identifier" in result.errors[0].description
    assert device.take_follow_ups() == []
    assert [installed.listed for installed in device.profiles] == before


@pytest.mark.parametrize("value", [1, 1.0, True])
def test_number_is_converted_to_a_boolean(value: object) -> None:
    device = standing()
    device.system = SystemState()
    assert run(device, "InstalledApplicationList", {"ManagedAppsOnly": value}).answer == {
        "InstalledApplicationList": []
    }
    run(device, "RestartDevice", {"NotifyUser": value})
    assert device.take_follow_ups() == [ChangePower(SystemRequest.RESTART)]  # nobody is logged in
    item = {"Item": "MDMOptions", "MDMOptions": {"BootstrapTokenAllowed": value}}
    (answer,) = run(device, "Settings", {"Settings": [item]}).answer["Settings"]
    assert answer == {"Item": "MDMOptions", "Status": "Acknowledged"}
    assert device.settings.mdm_options["BootstrapTokenAllowed"] is True
    warnings = device.take_warnings()
    assert len(warnings) == (0 if value is True else 3)
    assert all("it is converted" in text for text in warnings)
    assert device.take_warnings() == ()


@pytest.mark.parametrize("value", [0, 0.0, False, "true"])
def test_other_values_do_not_count_as_true(value: object) -> None:
    device = standing()
    assert run(device, "InstalledApplicationList", {"ManagedAppsOnly": value}).answer["InstalledApplicationList"]
    run(device, "RestartDevice", {"NotifyUser": value})
    assert device.take_follow_ups() == [ChangePower(SystemRequest.RESTART)]


def test_warnings_about_a_hostile_profile_are_bounded() -> None:
    device = standing()
    names = [f"%{a}{b}%" for a in "abcdefgh" for b in "abcdefgh"]
    payload = {"PayloadType": "x", "PayloadUUID": "x", "PayloadIdentifier": "x", "Names": names}
    octets = plistlib.dumps({**payload, "PayloadType": "Configuration", "PayloadContent": [payload]})
    assert run(device, "InstallProfile", {"Payload": octets}).status is Status.ACKNOWLEDGED
    assert 1 < len(device.take_warnings()) < len(names)


def test_device_information_has_only_requested_and_permitted_keys() -> None:
    device = standing()
    assert set(answers(device, ["UDID", "SerialNumber", "WiFiMAC"])) == {"UDID", "SerialNumber", "WiFiMAC"}
    with_rights(device, AccessRights.DEVICE_INFORMATION)
    assert set(answers(device, ["UDID", "SerialNumber", "WiFiMAC", "SupportsLOMDevice"])) == {
        "UDID",
        "SerialNumber",
        "SupportsLOMDevice",
    }
    with_rights(device, AccessRights.NETWORK_INFORMATION)
    assert set(answers(device, ["UDID", "SerialNumber", "WiFiMAC"])) == {"UDID", "WiFiMAC"}
    assert answers(device, ["NoSuchKey", "IMEI"]) == {}


def test_device_information_has_every_key_that_a_desktop_mac_has() -> None:
    """Excluded: keys that no Mac of the fleet has: a battery, an Apple Account, a rapid response, an attestation."""
    absent = {
        "BatteryLevel",
        "DevicePropertiesAttestation",
        "SupplementalOSVersionExtra",
        "iTunesStoreAccountHash",
    }
    queries = message("command", "DeviceInformation").request["Queries"].keys["QueriesItem"].keys
    newest = max((mac.os_version for mac in POPULATION), key=version)
    on_mac = {
        name
        for name, query in queries.items()
        if query.fact.is_in(newest) and query.fact.channels in ("", "device", "device|user")
    }
    assert on_mac - set(QUERIES) == absent
    assert set(QUERIES) - on_mac == {"OSUpdateSettings", "SoftwareUpdateDeviceID"}  # of macOS before 27


def answers(device: Device, queries: list[str]) -> dict[str, Any]:
    found = run(device, "DeviceInformation", {"Queries": queries}).answer["QueryResponses"]
    assert isinstance(found, dict)
    return found


def test_settings_change_later_answers() -> None:
    device = standing()
    settings = [
        {"Item": "DeviceName", "DeviceName": "Rack 7"},
        {"Item": "HostName", "HostName": "rack-7.example"},
        {"Item": "OrganizationInfo", "OrganizationInfo": {"OrganizationName": "Example"}},
        {"Item": "MDMOptions", "MDMOptions": {"BootstrapTokenAllowed": True}},
        {"Item": "Wallpaper"},
        {"Item": "DeviceName", "DeviceName": 7},
    ]
    result = run(device, "Settings", {"Settings": settings})
    items = result.answer["Settings"]
    assert [item["Status"] for item in items] == ["Acknowledged"] * 4 + ["Error"] * 2
    assert [item["ErrorChain"][0]["ErrorCode"] for item in items[4:]] == [12021, 12008]
    assert answers(device, ["DeviceName", "HostName", "OrganizationInfo", "MDMOptions"]) == {
        "DeviceName": "Rack 7",
        "HostName": "rack-7.example",
        "OrganizationInfo": {"OrganizationName": "Example"},
        "MDMOptions": {"BootstrapTokenAllowed": True},
    }
    assert device.announcement.device_name == "Rack 7"


def test_profile_is_listed_until_it_is_removed() -> None:
    device = standing()
    listed = run(device, "ProfileList", {}).answer["ProfileList"]
    assert [item["PayloadIdentifier"] for item in listed] == [LOM_IDENTIFIER]
    assert {payload["PayloadType"] for payload in listed[0]["PayloadContent"]} == {
        "com.apple.security.root",
        "com.apple.security.pkcs12",
        "com.apple.lom",
    }
    certificates = run(device, "CertificateList", {}).answer["CertificateList"]
    assert sorted(item["IsIdentity"] for item in certificates) == [False, False, True, True]
    assert {item["CommonName"] for item in certificates if item["IsIdentity"]} == {device.mac.dns_name}
    assert run(device, "RemoveProfile", {"Identifier": LOM_IDENTIFIER}).status is Status.ACKNOWLEDGED
    assert run(device, "ProfileList", {}).answer["ProfileList"] == []
    assert run(device, "CertificateList", {}).answer["CertificateList"] == []
    setup = run(device, "LOMSetupRequest", {})
    assert setup.status is Status.ERROR
    assert setup.errors[0].code == 12021
    again = run(device, "RemoveProfile", {"Identifier": LOM_IDENTIFIER})
    assert (again.status, again.errors[0].code) == (Status.ERROR, 12075)


@pytest.mark.parametrize(
    ("payload", "codes"),
    [
        (b"nothing like a plist", [("MCProfileErrorDomain", 1000)]),
        (plistlib.dumps({"PayloadType": "Other"}), [("MCProfileErrorDomain", 1000)]),
    ],
)
def test_invalid_profile_is_refused_with_its_error_chain(payload: bytes, codes: list[tuple[str, int]]) -> None:
    result = run(standing(), "InstallProfile", {"Payload": payload})
    assert result.status is Status.ERROR
    assert [(error.domain.value, error.code) for error in result.errors] == codes


def test_wrong_pkcs12_password_gives_the_error_chain_of_macos() -> None:
    device = standing()
    broken = plistlib.loads(profile(device))
    for payload in broken["PayloadContent"]:
        if payload["PayloadType"] == "com.apple.security.pkcs12":
            payload["Password"] = "another"
    before = device.lom
    result = run(device, "InstallProfile", {"Payload": plistlib.dumps(broken)})
    assert [(error.domain.value, error.code) for error in result.errors] == [
        ("MCProfileErrorDomain", 1009),
        ("MCInstallationErrorDomain", 4001),
        ("MCCertificateErrorDomain", 9000),
    ]
    assert device.lom is before


def test_installed_applications_can_be_filtered_by_identifier() -> None:
    device = standing()
    apps = run(device, "InstalledApplicationList", {}).answer["InstalledApplicationList"]
    assert "com.apple.Safari" in [app["Identifier"] for app in apps]
    one = run(device, "InstalledApplicationList", {"Identifiers": ["com.apple.Safari", "com.example.none"]})
    assert [app["Identifier"] for app in one.answer["InstalledApplicationList"]] == ["com.apple.Safari"]
    managed = run(device, "InstalledApplicationList", {"ManagedAppsOnly": True})
    assert [app["Identifier"] for app in managed.answer["InstalledApplicationList"]] == ["com.example.managed"]


@pytest.mark.parametrize(
    ("request_type", "body", "follow_ups"),
    [
        ("RestartDevice", {}, [ChangePower(SystemRequest.RESTART)]),
        ("RestartDevice", {"NotifyUser": True}, [ChangePower(SystemRequest.RESTART)]),
        ("ShutDownDevice", {}, [ChangePower(SystemRequest.SHUT_DOWN)]),
        ("DeviceLock", {"PIN": "123456"}, [ChangePower(SystemRequest.RESTART)]),
        ("EraseDevice", {"PIN": "123456"}, [Erase()]),
        ("DeclarativeManagement", {"Data": b"{}"}, [SynchroniseDeclarations(b"{}")]),
    ],
)
def test_restart_shutdown_and_erase_wait_until_the_answer_is_accepted(
    request_type: str, body: dict[str, Any], follow_ups: list[Any]
) -> None:
    device = standing()
    assert run(device, request_type, body).status is Status.ACKNOWLEDGED
    assert device.running
    assert device.enrollment is not None
    assert device.take_follow_ups() == follow_ups


def test_a_user_who_is_logged_in_keeps_the_mac_from_restarting() -> None:
    device = standing()
    device.system = SystemState(users=(replace(users_of(device)[0], logged_in=True),))
    assert run(device, "RestartDevice", {"NotifyUser": True}).status is Status.ACKNOWLEDGED
    assert device.take_follow_ups() == []
    run(device, "RestartDevice", {})
    assert device.take_follow_ups() == [ChangePower(SystemRequest.RESTART)]


@pytest.mark.parametrize("silicon", [True, False])
def test_erasure_needs_a_pin_where_the_mac_says_so(silicon: bool) -> None:
    device = OfflineMac((APPLE_SILICON if silicon else INTEL)[0], *LOM_AUTHORITIES, Dialect.SCHEMA).device
    assert answers(device, ["PINRequiredForEraseDevice"]) == {"PINRequiredForEraseDevice": not silicon}
    done = run(device, "EraseDevice", {}).status
    assert done is (Status.ACKNOWLEDGED if silicon else Status.COMMAND_FORMAT_ERROR)


def test_removing_the_enrollment_profile_unenrolls_the_mac() -> None:
    device = standing()
    installed = next(iter(device.profiles))
    device.profiles._profiles["mdm"] = structs.replace(  # an enrollment without a server
        installed, identifier="mdm", payload_types=frozenset({"com.apple.mdm"})
    )
    assert run(device, "RemoveProfile", {"Identifier": "mdm"}).status is Status.ACKNOWLEDGED
    assert device.take_follow_ups() == [LeaveManagement()]


def test_erased_mac_is_in_its_factory_state() -> None:
    device = standing()
    run(device, "Settings", {"Settings": [{"Item": "DeviceName", "DeviceName": "Rack 7"}]})
    device.erase()
    assert device.enrollment is None
    assert device.lom is None
    assert list(device.profiles) == []
    assert device.device_name == device.mac.device_name


@pytest.mark.parametrize("request_type", sorted(COMMANDS))
def test_busy_mac_answers_notnow_where_allowed(request_type: str) -> None:
    device = standing(0, request_type)
    device.not_now = lambda: True
    status = run(device, request_type, body_of(request_type, device)).status
    never_waits = request_type in ("DeviceLock", "EraseDevice")
    assert status is (Status.ACKNOWLEDGED if never_waits else Status.NOT_NOW)


@pytest.mark.parametrize("request_type", sorted(COMMANDS))
def test_the_answer_command_works_for_every_command(tmp_path: Path, request_type: str) -> None:
    mac = IN_PAIRS[3]
    body = dict(USUAL[request_type][0])
    if request_type == "InstallProfile":
        body["Payload"] = lom_profile(AUTHORITIES, mac.dns_name, device=True, controller=False)
    elif request_type == "RotateFileVaultKey":
        body["FileVaultUnlock"] = {"Password": "none"}
    elif request_type == "SetAutoAdminPassword":
        body["GUID"] = "none"
    octets = plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": request_type, **body}})
    channel = channel_of(request_type)
    answer = plistlib.loads(answer_command(IN_PAIRS, 3, octets, Dialect.SCHEMA, channel=channel))
    assert (answer["CommandUUID"], answer["UDID"]) == ("one", mac.udid)
    assert answer.get("UserID") == (mac.user_id if channel == "user" else None)
    assert mac.apple_silicon
    unsupported = command_problem(request_type, mac.os_version, channel) and request_type != "Restrictions"
    fails = unsupported or request_type in (*NEED_MORE, *ON_INTEL)
    assert answer["Status"] == ("Error" if fails else "Acknowledged")


def test_the_answer_command_prints_the_plist(tmp_path: Path) -> None:
    path = tmp_path / "command.plist"
    path.write_bytes(plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": "LOMSetupRequest"}}))
    done = lom_agent_here("answer", str(path), "--device", "7", "--seed", "commands")
    assert done.returncode == 0, done.stderr
    answer = plistlib.loads(done.stdout)
    assert answer["PrimaryIPv6AddressList"] == list(POPULATION[7].primary_ipv6)
    assert answer["UDID"] == POPULATION[7].udid
    path.write_bytes(plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": "NSExtensionMappings"}}))
    for channel, status in (("device", "Error"), ("user", "Acknowledged")):
        done = lom_agent_here("answer", str(path), "--channel", channel)
        assert plistlib.loads(done.stdout)["Status"] == status
    path.write_bytes(plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": "UserList"}}))
    for options, status in (((), "Acknowledged"), (("--unsupervised",), "Error")):
        assert plistlib.loads(lom_agent_here("answer", str(path), *options).stdout)["Status"] == status


@pytest.mark.slow
def test_the_answer_command_reads_standard_input(tmp_path: Path) -> None:
    octets = plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": "LOMSetupRequest"}})
    path = tmp_path / "command.plist"
    path.write_bytes(octets)
    done = lom_agent_here("answer", str(path), "--device", "7", "--seed", "commands")
    piped = lom_agent("answer", "-", "--device", "7", "--seed", "commands", stdin=path.read_bytes())
    assert piped.stdout == done.stdout


def test_answer_command_reports_errors(tmp_path: Path) -> None:
    path = tmp_path / "command.plist"
    path.write_bytes(b"no plist")
    done = lom_agent_here("answer", str(path))
    assert done.returncode == 2
    assert b"not a property list" in done.stderr
    path.write_bytes(plistlib.dumps({"Command": {"RequestType": "LOMSetupRequest"}}))
    dropped = lom_agent_here("answer", str(path))
    assert dropped.returncode == 2
    assert b"CommandUUID" in dropped.stderr
