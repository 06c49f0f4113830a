"""What each command changes on a Mac, as later answers show it, and the errors of those that change nothing."""

from __future__ import annotations

import hashlib
import plistlib
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import pkcs7_decrypt_der
from issued_once import IssuedOnce
from msgspec import structs
from msgspec.structs import replace
from rsa_keys import rsa_key

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.installing.apps import install_queued_apps, queued_app
from agent.device.installing.software_update import COMMAND, DECLARATION, Update
from agent.device.installing.updates import advance as update_due
from agent.device.installing.updates import start_update
from agent.device.mac import Device
from agent.device.security.firmware import set_pending_firmware_password
from agent.device.steps import (
    ChangePower,
    Done,
    Download,
    InstallApps,
    ReadDate,
    UpdateSoftware,
    advance,
)
from agent.device.stored.record import activity_record, device_record, restore_activity, restore_device
from agent.device.system import MANAGED, App, SystemState
from agent.device.users.accounts import users_of
from agent.device.users.channel import Account, UserDevice
from agent.errors import CutShort, PeerError
from agent.fleet.population import Population
from agent.lom.power import SystemRequest
from agent.lom.requests import Dialect
from agent.mdm.access_rights import ALL_RIGHTS, AccessRights
from agent.mdm.commands import Command
from agent.mdm.results import Result, Status
from agent.mdm.session import Session
from agent.pki.identity import Identity
from agent.pki.issuing.authority import Usage

AUTHORITIES = IssuedOnce.create("LOM Devices"), IssuedOnce.create("LOM Controllers")
NOON = 1.8e9
DATE = datetime(2030, 1, 2, 3, 4, 5)
APP = "com.example.tool"
PACKAGE = b"a package" * 1000


def mac(model: str = "Mac16,10", os: str = "26.2") -> Device:
    return OfflineMac(Population("effects", 1, model=model, os=os)[0], *AUTHORITIES, Dialect.SCHEMA).device


def intel() -> Device:
    return mac("MacPro7,1")


def run(device: Device, request_type: str, date: float = NOON, channel: str = "device", **body: Any) -> Result:
    outcome = carry_out(device, Command("uuid", request_type, {"RequestType": request_type, **body}, channel))
    if isinstance(outcome, Result):
        return outcome
    need = advance(outcome, None)
    while not isinstance(need, Done):
        need = advance(outcome, date if isinstance(need, ReadDate) else [])
    result: Result = need.value
    return result


def good(device: Device, request_type: str, date: float = NOON, **body: Any) -> dict[str, Any]:
    result = run(device, request_type, date, **body)
    assert result.status is Status.ACKNOWLEDGED, result.errors
    return dict(result.answer)


def code(result: Result) -> int:
    assert result.status is Status.ERROR, result
    (error,) = result.errors
    return error.code


def security(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = good(device, "SecurityInfo")["SecurityInfo"]
    return found


# Apps.


def manifest(**asset: Any) -> dict[str, Any]:
    package = {"kind": "software-package", "url": "https://apps.invalid/tool.pkg", **asset}
    metadata = {"kind": "software", "bundle-identifier": APP, "bundle-version": "3.1", "title": "Tool"}
    return {"items": [{"assets": [{"kind": "display-image"}, package], "metadata": metadata}]}


def install(device: Device, files: dict[str, bytes]) -> list[str]:
    """Install what is queued, with these files at their URLs."""
    steps = install_queued_apps(device)
    need = advance(steps, None)
    while not isinstance(need, Done):
        assert isinstance(need, Download)
        need = advance(steps, files.get(need.url, PeerError(f"no {need.url}")))
    failures: list[str] = need.value
    return failures


def managed(device: Device) -> dict[str, str]:
    listed = good(device, "ManagedApplicationList")["ManagedApplicationList"]
    return {identifier: item["Status"] for identifier, item in listed.items()}


def installed(device: Device, **body: Any) -> list[str]:
    return [app["Identifier"] for app in good(device, "InstalledApplicationList", **body)["InstalledApplicationList"]]


def test_an_app_of_a_manifest_is_queued_then_managed_then_removed() -> None:
    device = mac()
    right = manifest(sha256=hashlib.sha256(PACKAGE).hexdigest().upper(), md5="wrong, and ignored")
    body = {"InstallAsManaged": True, "ManagementFlags": 1, "Configuration": {"Server": "a.example"}}
    good(device, "InstallEnterpriseApplication", ManifestURL="https://apps.invalid/m.plist", **body)
    assert device.take_follow_ups() == [InstallApps()]
    assert managed(device) == {}  # its identifier is not known
    files = {"https://apps.invalid/m.plist": plistlib.dumps(right), "https://apps.invalid/tool.pkg": PACKAGE}
    assert install(device, files) == []
    assert managed(device) == {APP: "Managed"}
    assert installed(device, ManagedAppsOnly=True) == [APP]
    assert installed(device, Identifiers=[APP]) == [APP]
    (item,) = good(device, "ManagedApplicationConfiguration", Identifiers=[APP, "other"])["ApplicationConfigurations"]
    assert item == {"Identifier": APP, "Configuration": {"Server": "a.example"}}
    feedback = run(device, "ManagedApplicationFeedback", channel="user", Identifiers=[APP])
    assert feedback.answer == {"ManagedApplicationFeedback": [{"Identifier": APP}]}
    good(device, "RemoveApplication", Identifier=APP)
    assert managed(device) == {}
    assert APP not in installed(device)
    assert code(run(device, "RemoveApplication", Identifier=APP)) == 12029


def chunks(name: str, size: int) -> dict[str, Any]:
    pieces = [PACKAGE[at : at + size] for at in range(0, len(PACKAGE), size)]
    return {f"{name}-size": size, f"{name}s": [hashlib.new(name, piece).hexdigest() for piece in pieces]}


@pytest.mark.parametrize(
    ("asset", "right"),
    [
        ({}, True),
        ({"sha256": hashlib.sha256(PACKAGE).hexdigest()}, True),
        ({"md5": hashlib.md5(PACKAGE, usedforsecurity=False).hexdigest()}, True),
        (chunks("sha256", 4000), True),
        (chunks("md5", 9000), True),
        ({"sha256": hashlib.sha256(b"other").hexdigest()}, False),
        ({"sha256": hashlib.sha256(b"other").hexdigest(), **chunks("md5", 4000)}, False),
        ({**chunks("sha256", 4000), "sha256-size": 4001}, False),
    ],
)
def test_the_hash_of_the_package_is_checked(asset: dict[str, Any], right: bool) -> None:
    device = mac()
    good(device, "InstallEnterpriseApplication", Manifest=manifest(**asset), InstallAsManaged=True)
    assert managed(device) == {APP: "Queued"}
    failures = install(device, {"https://apps.invalid/tool.pkg": PACKAGE})
    assert len(failures) == (0 if right else 1)
    assert managed(device) == {APP: "Managed" if right else "Failed"}
    assert managed(device) == ({APP: "Managed"} if right else {})  # a failure is reported once


def test_an_update_of_an_app_that_fails_leaves_the_app() -> None:
    device = mac()
    files = {"https://apps.invalid/tool.pkg": PACKAGE}
    for asset, failures in (({}, 0), ({"sha256": "00"}, 1), ({"md5": "00"}, 1)):
        for _ in range(2):  # the second command of an app that waits takes the place of the first
            good(device, "InstallEnterpriseApplication", Manifest=manifest(**asset), InstallAsManaged=True)
        assert managed(device) == {APP: "Queued"}
        assert len(install(device, files)) == failures
        assert managed(device) == {APP: "Managed"}
    good(device, "InstallEnterpriseApplication", Manifest=manifest())
    install(device, files)
    assert managed(device) == {}  # installed again, and not as managed
    assert installed(device, Identifiers=[APP]) == [APP]


def test_a_hash_for_each_byte_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = mac()
    asset = {"sha256-size": 1, "sha256s": ["00"]}
    good(device, "InstallEnterpriseApplication", Manifest=manifest(**asset), InstallAsManaged=True)
    monkeypatch.setattr(hashlib, "new", None)
    assert len(install(device, {"https://apps.invalid/tool.pkg": PACKAGE})) == 1


@pytest.mark.parametrize(
    "content", [b"no plist", plistlib.dumps({"items": []}), plistlib.dumps({"items": [{"assets": [], "metadata": {}}]})]
)
def test_a_bad_manifest_is_a_failure_after_the_answer(content: bytes) -> None:
    device = mac()
    good(device, "InstallApplication", ManifestURL="https://apps.invalid/m.plist")
    (failure,) = install(device, {"https://apps.invalid/m.plist": content})
    assert "https://apps.invalid/m.plist" in failure
    assert queued_app(device) is None
    assert device.system.apps == ()


def test_an_app_that_is_removed_during_its_download_is_not_installed() -> None:
    device = mac()
    good(device, "InstallEnterpriseApplication", Manifest=manifest(), InstallAsManaged=True)
    steps = install_queued_apps(device)
    assert isinstance(advance(steps, None), Download)
    device.forget_enrollment()
    assert isinstance(advance(steps, PACKAGE), Done)
    assert device.system.apps == ()


def test_an_app_whose_download_the_mac_cuts_short_still_waits() -> None:
    device = mac()
    good(device, "InstallEnterpriseApplication", Manifest=manifest(), InstallAsManaged=True)
    steps = install_queued_apps(device)
    assert isinstance(advance(steps, None), Download)
    with pytest.raises(CutShort):
        advance(steps, CutShort("the Mac went down"))
    assert managed(device) == {APP: "Queued"}
    assert install(device, {"https://apps.invalid/tool.pkg": PACKAGE}) == []
    assert managed(device) == {APP: "Managed"}


def test_management_ends_with_the_enrollment() -> None:
    device = mac()
    for number, flags in ((1, 1), (2, 4)):
        good(device, "InstallApplication", iTunesStoreID=number, InstallAsManaged=True, ManagementFlags=flags)
    install(device, {})
    enrollment = device.enrollment
    device.forget_enrollment()
    device.enrollment = enrollment
    assert managed(device) == {}
    assert [each for each in installed(device) if each.startswith("app.")] == ["app.2"]


@pytest.mark.parametrize(
    ("request_type", "body", "expected"),
    [
        ("InstallApplication", {}, None),
        ("InstallApplication", {"iTunesStoreID": 1, "Identifier": "a"}, None),
        ("InstallApplication", {"iTunesStoreID": "1"}, None),
        ("InstallApplication", {"iTunesStoreID": 1, "ManagementFlags": 2}, None),
        ("InstallApplication", {"iTunesStoreID": 1, "Options": {"PurchaseMethod": 2}}, None),
        ("InstallApplication", {"iTunesStoreID": 1, "ChangeManagementState": "Other"}, None),
        ("InstallApplication", {"ManifestURL": "http://apps.invalid/m"}, 12034),
        ("InstallApplication", {"ManifestURL": "https:"}, 12030),
        ("InstallApplication", {"Identifier": "com.apple.Safari"}, 12025),
        ("InstallApplication", {"iTunesStoreID": 1, "Configuration": {"a": "x" * 100_000}}, 12008),
        ("InstallEnterpriseApplication", {}, None),
        ("InstallEnterpriseApplication", {"Manifest": {}, "ManifestURL": "https://apps.invalid"}, None),
        ("InstallEnterpriseApplication", {"Manifest": {}}, 12024),
        ("InstallEnterpriseApplication", {"Manifest": manifest(url="http://apps.invalid")}, 12034),
        ("InstallEnterpriseApplication", {"ManifestURL": "https://a", "ManifestURLPinningCerts": [b"x"]}, 12008),
        ("InstallEnterpriseApplication", {"ManifestURL": "https://a", "ManifestURLPinningCerts": ["x"]}, None),
        ("RemoveApplication", {}, None),
        ("ManagedApplicationConfiguration", {}, None),
        ("ManagedApplicationList", {"Identifiers": "a"}, None),
    ],
)
def test_bad_parameters_of_apps(request_type: str, body: dict[str, Any], expected: int | None) -> None:
    device = mac()
    result = run(device, request_type, **body)
    assert (result.status is Status.COMMAND_FORMAT_ERROR) if expected is None else (code(result) == expected)
    assert device.take_follow_ups() == []
    assert device.system.apps == ()


def test_commands_leave_an_app_that_a_declaration_manages_alone() -> None:
    device = mac()
    declared = App(identifier=APP, status=MANAGED, managed=True, declared=True)
    device.system = SystemState(apps=(declared,))
    assert code(run(device, "InstallApplication", Identifier=APP)) == 12025
    assert code(run(device, "InstallEnterpriseApplication", Manifest=manifest())) == 12025
    assert code(run(device, "RemoveApplication", Identifier=APP)) == 12036
    assert managed(device) == {}
    assert good(device, "ManagedApplicationConfiguration", Identifiers=[APP]) == {"ApplicationConfigurations": []}
    assert installed(device, ManagedAppsOnly=True) == []
    assert installed(device, Identifiers=[APP]) == [APP]
    item = {"Item": "ApplicationConfiguration", "Identifier": APP, "Configuration": {"a": 1}}
    (answer,) = good(device, "Settings", Settings=[item])["Settings"]
    assert answer["ErrorChain"][0]["ErrorCode"] == 12029
    good(device, "InstallEnterpriseApplication", ManifestURL="https://apps.invalid/m.plist")
    files = {"https://apps.invalid/m.plist": plistlib.dumps(manifest()), "https://apps.invalid/tool.pkg": PACKAGE}
    (failure,) = install(device, files)
    assert "a declaration manages it" in failure
    assert device.system.apps == (declared,)


def test_settings_of_apps_and_bluetooth_need_their_own_rights() -> None:
    device = mac()
    good(device, "InstallApplication", Identifier=APP, InstallAsManaged=True)
    install(device, {})
    items = [
        {"Item": "ApplicationConfiguration", "Identifier": APP, "Configuration": {"a": 1}},
        {"Item": "ApplicationConfiguration", "Identifier": "other"},
        {"Item": "Bluetooth", "Enabled": False},
        {"Item": "Bluetooth"},
        {"Item": "ApplicationConfiguration", "Identifier": APP, "Configuration": {"a": "x" * 100_000}},
    ]
    answers = good(device, "Settings", Settings=items)["Settings"]
    assert [item["Status"] for item in answers] == ["Acknowledged", "Error", "Acknowledged", "Error", "Error"]
    (found,) = good(device, "ManagedApplicationConfiguration", Identifiers=[APP])["ApplicationConfigurations"]
    assert found["Configuration"] == {"a": 1}
    good(device, "Settings", Settings=[{"Item": "ApplicationConfiguration", "Identifier": APP}])
    assert good(device, "ManagedApplicationList")["ManagedApplicationList"][APP]["HasConfiguration"] is False
    assert not device.system.bluetooth
    assert device.enrollment is not None
    device.enrollment = structs.replace(device.enrollment, access_rights=AccessRights.SETTINGS)
    answers = good(device, "Settings", Settings=items)["Settings"]
    assert [item["ErrorChain"][0]["ErrorCode"] for item in answers] == [12007] * 5


# Security.


RSA_KEY = rsa_key()
RECIPIENTS = [AUTHORITIES[0].issue(name, Usage(), key=RSA_KEY) for name in ("escrow", "reply")]


def profile(*payloads: dict[str, Any]) -> bytes:
    named = [
        {"PayloadUUID": f"u{number}", "PayloadIdentifier": f"p{number}", "PayloadVersion": 1, **payload}
        for number, payload in enumerate(payloads)
    ]
    outer = {"PayloadType": "Configuration", "PayloadUUID": "u", "PayloadIdentifier": "filevault", "PayloadVersion": 1}
    return plistlib.dumps({**outer, "PayloadContent": named})


def opened(envelope: bytes, recipient: Identity) -> str:
    return pkcs7_decrypt_der(envelope, recipient.certificate, recipient.key, []).decode()  # type: ignore[arg-type]


def test_filevault_is_turned_on_escrowed_and_its_key_rotated() -> None:
    device, (escrow, reply) = mac(), RECIPIENTS
    unlock = {"Password": "anything"}
    assert code(run(device, "RotateFileVaultKey", KeyType="personal", FileVaultUnlock=unlock)) == 12021
    der = escrow.certificate.public_bytes(Encoding.DER)
    blob = profile(
        {"PayloadType": "com.apple.MCX.FileVault2", "Enable": "On", "Defer": True},
        {"PayloadType": "com.apple.security.pkcs1", "PayloadContent": der},
        {"PayloadType": "com.apple.security.FDERecoveryKeyEscrow", "Location": "here", "EncryptCertPayloadUUID": "u1"},
    )
    good(device, "InstallProfile", Payload=blob)
    found = security(device)
    assert (found["FDE_Enabled"], found["FDE_HasPersonalRecoveryKey"]) == (True, True)
    assert found["FDE_PersonalRecoveryKeyDeviceKey"] == device.mac.serial_number
    key = opened(found["FDE_PersonalRecoveryKeyCMS"], escrow)
    assert code(run(device, "RotateFileVaultKey", KeyType="personal", FileVaultUnlock=unlock)) == 12007
    rotated = good(
        device,
        "RotateFileVaultKey",
        KeyType="personal",
        FileVaultUnlock={"Password": key},
        ReplyEncryptionCertificate=reply.certificate.public_bytes(Encoding.DER),
    )
    new = opened(rotated["RotateResult"]["EncryptedNewRecoveryKey"], reply)
    assert new != key
    assert opened(security(device)["FDE_PersonalRecoveryKeyCMS"], escrow) == new
    assert code(run(device, "RotateFileVaultKey", KeyType="personal", FileVaultUnlock={"Password": key})) == 12007
    institutional = {"KeyType": "institutional", "FileVaultUnlock": {"Password": new}}
    assert run(device, "RotateFileVaultKey", **institutional).status is Status.COMMAND_FORMAT_ERROR
    good(device, "RotateFileVaultKey", **institutional, NewCertificate=der)
    assert security(device)["FDE_HasInstitutionalRecoveryKey"]
    good(device, "RemoveProfile", Identifier="filevault")
    found = security(device)
    assert found["FDE_Enabled"]
    assert "FDE_PersonalRecoveryKeyCMS" not in found


def test_a_profile_of_the_user_with_the_same_identifier_leaves_the_escrow_alone() -> None:
    device, escrow = mac(), RECIPIENTS[0]
    user = UserDevice(device, Account.of(device.mac, network=False), Session(device.mac.udid, lambda: 0.0))
    certificate = {
        "PayloadType": "com.apple.security.pkcs1",
        "PayloadContent": escrow.certificate.public_bytes(Encoding.DER),
    }
    vault = {"PayloadType": "com.apple.MCX.FileVault2", "Enable": "On", "Defer": True}
    keys = {"PayloadType": "com.apple.security.FDERecoveryKeyEscrow", "Location": "a", "EncryptCertPayloadUUID": "u1"}
    good(device, "InstallProfile", Payload=profile(vault, certificate, keys))
    for request in ({"RequestType": "InstallProfile", "Payload": profile(certificate)},
                    {"RequestType": "RemoveProfile", "Identifier": "filevault"}):  # fmt: skip
        kind = request.pop("RequestType")
        assert run(user, str(kind), channel="user", **request).status is Status.ACKNOWLEDGED
    assert "FDE_PersonalRecoveryKeyCMS" in security(device)


def test_recovery_lock_until_the_enrollment_ends() -> None:
    device = mac()
    assert good(device, "VerifyRecoveryLock", Password="")["PasswordVerified"] is False
    good(device, "SetRecoveryLock", NewPassword="first")
    assert security(device)["IsRecoveryLockEnabled"]
    assert [good(device, "VerifyRecoveryLock", Password=each)["PasswordVerified"] for each in ("first", "no")] == [
        True,
        False,
    ]
    assert code(run(device, "SetRecoveryLock", NewPassword="second", CurrentPassword="no")) == 12007
    good(device, "SetRecoveryLock", NewPassword="second", CurrentPassword="first")
    assert run(device, "SetRecoveryLock").status is Status.COMMAND_FORMAT_ERROR
    enrollment = device.enrollment
    device.forget_enrollment()
    device.enrollment = enrollment
    assert not security(device)["IsRecoveryLockEnabled"]
    assert code(run(intel(), "SetRecoveryLock", NewPassword="first")) == 12021


def test_firmware_password_takes_effect_by_a_restart_and_is_throttled() -> None:
    device = intel()
    body = {"NewPassword": "first", "AllowOroms": True}
    assert good(device, "SetFirmwarePassword", **body)["SetFirmwarePassword"] == {"PasswordChanged": True}
    assert device.take_follow_ups() == [ChangePower(SystemRequest.RESTART)]
    status = security(device)["FirmwarePasswordStatus"]
    assert status == {"PasswordExists": False, "ChangePending": True, "AllowOroms": False}
    assert code(run(device, "SetFirmwarePassword", date=NOON + 29, NewPassword="x")) == 12010  # too soon
    assert code(run(device, "SetFirmwarePassword", date=NOON + 31, NewPassword="x")) == 12010  # one is pending
    set_pending_firmware_password(device)
    status = security(device)["FirmwarePasswordStatus"]
    assert status == {"PasswordExists": True, "ChangePending": False, "AllowOroms": True}
    verified = run(device, "VerifyFirmwarePassword", date=NOON, Password="first")
    assert verified.answer == {"VerifyFirmwarePassword": {"PasswordVerified": True}}
    assert code(run(device, "VerifyFirmwarePassword", date=NOON + 29, Password="first")) == 12010
    again = run(device, "VerifyFirmwarePassword", date=NOON + 30, Password="other")
    assert again.answer == {"VerifyFirmwarePassword": {"PasswordVerified": False}}
    wrong = run(device, "SetFirmwarePassword", date=NOON + 90, NewPassword="")
    assert wrong.answer == {"SetFirmwarePassword": {"PasswordChanged": False}}
    assert device.take_follow_ups() == []
    cleared = run(device, "SetFirmwarePassword", date=NOON + 150, NewPassword="", CurrentPassword="first")
    assert cleared.answer == {"SetFirmwarePassword": {"PasswordChanged": True}}
    set_pending_firmware_password(device)
    assert not security(device)["FirmwarePasswordStatus"]["PasswordExists"]
    assert run(intel(), "SetFirmwarePassword", NewPassword="é").status is Status.COMMAND_FORMAT_ERROR
    for request_type, key in (("SetFirmwarePassword", "NewPassword"), ("VerifyFirmwarePassword", "Password")):
        assert code(run(mac(), request_type, **{key: "first"})) == 12021


def test_activation_lock_bypass_code_is_new_after_an_erasure() -> None:
    device = mac()
    first = good(device, "ActivationLockBypassCode")["ActivationLockBypassCode"]
    assert [len(group) for group in first.split("-")] == [5, 5, 4, 4, 4, 4]
    good(device, "ClearActivationLockBypassCode")
    assert code(run(device, "ActivationLockBypassCode")) == 12010
    enrollment = device.enrollment
    device.erase()
    device.enrollment = enrollment
    second = good(device, "ActivationLockBypassCode")["ActivationLockBypassCode"]
    assert second != first
    assert good(device, "ActivationLockBypassCode")["ActivationLockBypassCode"] == second


def test_remote_desktop_is_shown_by_security_info() -> None:
    device = mac()
    for request_type, on in (("EnableRemoteDesktop", True), ("DisableRemoteDesktop", False)):
        good(device, request_type)
        assert security(device)["RemoteDesktopEnabled"] is on


def test_content_caching_is_turned_on_by_its_profile_and_stays_on_without_it() -> None:
    device = mac()
    keys: list[dict[str, Any]] = [{}, {"AutoActivation": True}, {"AutoActivation": True, "DenyActivation": True}]
    for payload, is_on in zip(keys, (False, True, False), strict=True):
        blob = profile({"PayloadType": "com.apple.AssetCache.managed", **payload})
        good(device, "InstallProfile", Payload=blob)
        good(device, "RemoveProfile", Identifier="filevault")
        status = good(device, "ContentCachingInformation")["StatusResponse"]
        assert (status["Activated"], status["Active"]) == (is_on, is_on)


@pytest.mark.parametrize(
    "payload_type",
    ["com.apple.AssetCache.managed", "com.apple.MCX.FileVault2", "com.apple.security.FDERecoveryKeyEscrow"],
)
def test_payload_of_the_device_channel_is_refused_on_the_user_channel(payload_type: str) -> None:
    device = mac()
    device.user = UserDevice(device, Account.of(device.mac, network=False), Session("x", lambda: 0.0))
    refused = run(device.user, "InstallProfile", channel="user", Payload=profile({"PayloadType": payload_type}))
    assert "user channel" in refused.errors[-1].description
    assert not list(device.user.profiles)


# Users.


def test_users_are_deleted_but_not_the_last_administrator() -> None:
    device = mac()
    (user,) = good(device, "UserList")["Users"]
    assert (user["UserName"], user["UID"], user["IsLoggedIn"]) == ("admin", 501, False)
    assert code(run(device, "DeleteUser", UserName="nobody")) == 12071
    assert code(run(device, "DeleteUser", UserName="admin")) == 12074
    assert run(device, "DeleteUser").status is Status.COMMAND_FORMAT_ERROR
    assert code(run(device, "UnlockUserAccount", UserName="nobody")) == 12071
    good(device, "UnlockUserAccount", UserName="admin")
    admin = users_of(device)[0]
    second = replace(admin, name="second", uid=502, administrator=False)
    device.system = replace(device.system, users=(admin, replace(second, logged_in=True)))
    assert code(run(device, "DeleteUser", UserName="second")) == 12072
    device.system = replace(device.system, users=(admin, second))
    good(device, "DeleteUser", UserName="second")
    assert [user["UserName"] for user in good(device, "UserList")["Users"]] == ["admin"]


@pytest.mark.parametrize("network", [True, False])
def test_the_user_of_the_user_channel_is_logged_in(network: bool) -> None:
    device = mac()
    device.user = UserDevice(device, Account.of(device.mac, network=network), Session(device.mac.udid, lambda: 0.0))
    _, user = good(device, "UserList")["Users"]
    name = device.user.account.short_name
    assert (user["UserName"], user["UserGUID"], user["UID"]) == (name, device.user.account.user_id, 502)
    assert (user["IsLoggedIn"], user["MobileAccount"]) == (True, network)
    assert code(run(device, "DeleteUser", UserName=name)) == 12072
    second = replace(users_of(device)[0], name="second", uid=502)
    device.system = replace(device.system, users=(users_of(device)[0], second))
    good(device, "DeleteUser", UserName="second")
    assert [each["UserName"] for each in good(device, "UserList")["Users"]] == ["admin", name]
    good(device, "RestartDevice", NotifyUser=True)
    assert device.take_follow_ups() == []


HASH = plistlib.dumps({"SALTED-SHA512-PBKDF2": {"entropy": b"e", "salt": b"s", "iterations": 30_000}})


def test_accounts_are_made_when_setup_assistant_ends() -> None:
    device = mac()
    body = {
        "SetPrimarySetupAccountAsRegularUser": True,
        "PrimaryAccountUserName": "zoe",
        "PrimaryAccountFullName": "Zoé",
        "AutoSetupAdminAccounts": [{"shortName": "support", "passwordHash": HASH, "hidden": True}],
    }
    assert code(run(device, "AccountConfiguration", **body)) == 12021  # Setup Assistant does not run
    device.settings.awaiting_configuration = True
    for wrong in ({"SkipPrimarySetupAccountCreation": True}, {"AutoSetupAdminAccounts": [{}]}):
        assert run(device, "AccountConfiguration", **wrong).status is Status.COMMAND_FORMAT_ERROR
    bad_hash = [{"shortName": "support", "passwordHash": b"x"}]
    assert code(run(device, "AccountConfiguration", AutoSetupAdminAccounts=bad_hash)) == 12008
    good(device, "AccountConfiguration", **body)
    good(device, "DeviceConfigured")
    users = good(device, "UserList")["Users"]
    assert [(user["UserName"], user["FullName"], user["UID"]) for user in users] == [
        ("zoe", "Zoé", 501),
        ("support", "support", 502),
    ]
    asked = good(device, "DeviceInformation", Queries=["AutoSetupAdminAccounts"])["QueryResponses"]
    assert asked == {"AutoSetupAdminAccounts": [{"GUID": users[1]["UserGUID"], "shortName": "support"}]}
    good(device, "SetAutoAdminPassword", GUID=users[1]["UserGUID"], passwordHash=HASH)
    assert code(run(device, "SetAutoAdminPassword", GUID=users[0]["UserGUID"], passwordHash=HASH)) == 12071
    assert code(run(device, "SetAutoAdminPassword", GUID=users[1]["UserGUID"], passwordHash=b"x")) == 12008
    assert code(run(device, "DeleteUser", UserName="support")) == 12074


def test_skipped_account_is_not_made() -> None:
    device = mac()
    device.settings.awaiting_configuration = True
    accounts = [{"shortName": "support", "fullName": "Support"}, {"shortName": "ignored"}]
    good(device, "AccountConfiguration", SkipPrimarySetupAccountCreation=1, AutoSetupAdminAccounts=accounts)
    good(device, "DeviceConfigured")
    assert [user["FullName"] for user in good(device, "UserList")["Users"]] == ["Support"]


# Provisioning profiles, mirroring, logs, the Volume Purchase Program.


def test_provisioning_profiles_are_listed_until_removed() -> None:
    device = mac()
    content = plistlib.dumps({"Name": "Team", "UUID": "1", "ExpirationDate": DATE})
    for _ in range(2):  # no error where it is present
        good(device, "InstallProvisioningProfile", ProvisioningProfile=content)
    listed = good(device, "ProvisioningProfileList", ManagedOnly=True)["ProvisioningProfileList"]
    assert listed == [{"Name": "Team", "UUID": "1", "ExpiryDate": DATE}]
    good(device, "RemoveProvisioningProfile", UUID="1")
    assert good(device, "ProvisioningProfileList")["ProvisioningProfileList"] == []
    assert code(run(device, "RemoveProvisioningProfile", UUID="1")) == 12014
    for octets in (b"no profile", plistlib.dumps({"Name": "Team"})):
        assert code(run(device, "InstallProvisioningProfile", ProvisioningProfile=octets)) == 12008
    assert run(device, "InstallProvisioningProfile").status is Status.COMMAND_FORMAT_ERROR


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"DestinationName": "Lobby", "ScanTime": 10}, "DestinationNotFound"),
        ({"DestinationDeviceID": "aa:bb:cc:dd:ee:ff"}, "DestinationNotFound"),
        ({}, None),
        ({"DestinationName": "Lobby", "ScanTime": 9}, None),
    ],
)
def test_mirroring_finds_no_destination(body: dict[str, Any], found: str | None) -> None:
    result = run(mac(), "RequestMirroring", **body)
    if found is None:
        assert result.status is Status.COMMAND_FORMAT_ERROR
    else:
        assert result.answer == {"MirroringResult": found}


@pytest.mark.parametrize(("token", "ends"), [("test-token-normal", "finished"), ("test-token-failed", "failed")])
def test_enhanced_log_collection_of_macos_27_on_the_user_channel(token: str, ends: str) -> None:
    device = mac(os="27.0")
    assert code(run(device, "TriggerEnhancedLogCollection", AppleCareToken=token)) == 12021  # on the device channel
    assert run(device, "TriggerEnhancedLogCollection", channel="user").status is Status.COMMAND_FORMAT_ERROR
    done = run(device, "TriggerEnhancedLogCollection", channel="user", AppleCareToken=token)
    assert done.status is Status.ACKNOWLEDGED
    assert device.system.log_collection is not None
    assert (device.system.log_collection.token, device.system.log_collection.status) == (token, ends)
    assert run(device, "CancelEnhancedLogCollection", channel="user").status is Status.ACKNOWLEDGED
    assert device.system.log_collection.status == ends
    assert code(run(mac(), "TriggerEnhancedLogCollection", channel="user", AppleCareToken=token)) == 12021


@pytest.mark.parametrize(
    ("program", "url", "found"),
    [
        ("com.apple.cloudvpp", "https://vpp.invalid", "Acknowledged"),
        ("other", "https://vpp.invalid", "InvalidProgramID"),
        ("com.apple.cloudvpp", "http://vpp.invalid", "InvalidInvitationURL"),
    ],
)
def test_invitation_to_the_volume_purchase_program(program: str, url: str, found: str) -> None:
    device = mac()
    asked = {"channel": "user", "ProgramID": program, "InvitationURL": url}
    assert run(device, "InviteToProgram", **asked).answer == {"InvitationResult": found}
    device.settings.awaiting_configuration = True
    assert run(device, "InviteToProgram", **asked).status is Status.NOT_NOW


def test_extensions_can_be_filtered_by_their_point() -> None:
    device = mac()
    listed = run(device, "NSExtensionMappings", channel="user").answer["Extensions"]
    active = run(device, "ActiveNSExtensions", channel="user", FilterExtensionPoints=["com.apple.ui-services"])
    (one,) = active.answer["Extensions"]
    assert one["ExtensionPoint"] == "com.apple.ui-services"
    assert one["Identifier"] in [extension["Identifier"] for extension in listed]


# Software updates.


def test_updates_are_offered_scheduled_and_followed() -> None:
    device = mac(os="15.4")
    device.update_seconds = lambda: 100.0
    offers = {offer["Version"]: offer for offer in good(device, "AvailableOSUpdates")["AvailableOSUpdates"]}
    minor = offers["15.5"]
    assert (minor["IsMajorOSUpdate"], minor["Build"]) == (False, "24F74")
    assert minor["ProductKey"] == "MSU_UPDATE_24F74_patch_15.5_minor"
    assert all(offer["IsMajorOSUpdate"] for version, offer in offers.items() if version != "15.5")
    assert good(device, "ScheduleOSUpdateScan", Force=True) == {"ScanInitiated": True}
    settings = good(device, "DeviceInformation", Queries=["OSUpdateSettings"])["QueryResponses"]["OSUpdateSettings"]
    assert settings["PreviousScanDate"] == datetime.fromtimestamp(NOON, UTC).replace(tzinfo=None)
    assert good(device, "OSUpdateStatus") == {"OSUpdateStatus": []}
    key = minor["ProductKey"]
    updates = [
        {"ProductKey": key, "InstallAction": "DownloadOnly"},
        {"ProductVersion": "9", "InstallAction": "Default"},
    ]
    first, second = good(device, "ScheduleOSUpdate", Updates=updates)["UpdateResults"]
    assert first == {"ProductKey": key, "InstallAction": "DownloadOnly", "Status": "Downloading"}
    assert (second["InstallAction"], second["ErrorChain"][0]["ErrorCode"]) == ("Error", 12008)
    (follow_up,) = device.take_follow_ups()
    assert follow_up == UpdateSoftware(Update("15.5", "24F74", COMMAND))
    start_update(device, follow_up.update, NOON)
    (status,) = good(device, "OSUpdateStatus", date=NOON + 25)["OSUpdateStatus"]
    assert status == {
        "ProductKey": key,
        "IsDownloaded": False,
        "DownloadPercentComplete": 0.25,
        "Status": "Downloading",
    }
    assert update_due(device, NOON + 100, 0.0) == []
    (status,) = good(device, "OSUpdateStatus", date=NOON + 100)["OSUpdateStatus"]
    assert (status["IsDownloaded"], status["DownloadPercentComplete"], status["Status"]) == (True, 1.0, "Idle")
    again = [{"ProductVersion": "15.5", "InstallAction": "Default"}]
    (third,) = good(device, "ScheduleOSUpdate", Updates=again)["UpdateResults"]
    assert third == {"ProductKey": key, "InstallAction": "InstallASAP", "Status": "Installing"}
    assert device.take_follow_ups() == [UpdateSoftware(Update("15.5", "24F74", COMMAND, install_at=0.0))]


def test_an_update_that_a_declaration_enforces_is_left_alone() -> None:
    device = mac()
    start_update(device, Update("26.4", "", DECLARATION, "enforced", install_at=2 * NOON), NOON)
    asked = [{"ProductVersion": "26.4", "InstallAction": "InstallASAP"}]
    (result,) = good(device, "ScheduleOSUpdate", Updates=asked)["UpdateResults"]
    assert (result["InstallAction"], "enforces" in result["ErrorChain"][0]["USEnglishDescription"]) == ("Error", True)
    assert device.take_follow_ups() == []
    assert good(device, "OSUpdateStatus") == {"OSUpdateStatus": []}


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"InstallAction": "InstallASAP"},
        {"ProductVersion": "26.4"},
        {"ProductVersion": "26.4", "InstallAction": "Now"},
        {"ProductVersion": 26, "InstallAction": "Default"},
        {"ProductVersion": "26.4", "InstallAction": "InstallLater", "MaxUserDeferrals": "3"},
        {"ProductVersion": "26.4", "InstallAction": "Default", "Priority": "Highest"},
    ],
)
def test_bad_parameters_of_updates(update: dict[str, Any]) -> None:
    assert run(mac(), "ScheduleOSUpdate", Updates=[update]).status is Status.COMMAND_FORMAT_ERROR


@pytest.mark.parametrize(
    "request_type", ["AvailableOSUpdates", "OSUpdateStatus", "ScheduleOSUpdate", "ScheduleOSUpdateScan"]
)
def test_update_commands_are_unknown_to_macos_27(request_type: str) -> None:
    assert code(run(mac(os="27.0"), request_type, Updates=[])) == 12021


def test_commands_that_macos_does_not_have() -> None:
    for request_type in ("LogOutUser", "InstallMedia"):
        assert code(run(mac(), request_type)) == 12021
    assert good(mac(), "Restrictions", ProfileRestrictions=True) == {
        "GlobalRestrictions": {},
        "ProfileRestrictions": {},
    }


# The record.


def test_what_commands_change_outlives_the_process() -> None:
    device = mac()
    good(device, "InstallEnterpriseApplication", Manifest=manifest(), InstallAsManaged=True)
    good(device, "SetRecoveryLock", NewPassword="first")
    good(device, "EnableRemoteDesktop")
    assert b"system" not in device_record(mac())
    again = mac()
    restore_device(again, device_record(device))
    restore_activity(again, activity_record(device, 0.0), 0.0)
    assert again.system == device.system
    assert again.take_follow_ups() == [InstallApps()]
    assert queued_app(again) == device.system.apps[0]


def test_rights_are_those_of_the_enrollment() -> None:
    device = mac()
    assert device.enrollment is not None
    device.enrollment = structs.replace(device.enrollment, access_rights=ALL_RIGHTS & ~AccessRights.MANAGE_APPLICATIONS)
    assert code(run(device, "InstallApplication", iTunesStoreID=1)) == 12007
    assert device.system.apps == ()
