"""What a Mac says about itself, by its model, its macOS, its channel and its settings."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from issued_once import IssuedOnce

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.commands.settings import apply_settings
from agent.device.ddm.status import NoStatus, status_value
from agent.device.facts.applications import installed_applications
from agent.device.facts.information import QUERIES, _plan, device_information, security_information
from agent.device.facts.supported import DEVICE_CHANNEL, USER_CHANNEL
from agent.device.mac import Device
from agent.device.names import local_host_name_of
from agent.device.users.channel import Account, UserDevice
from agent.fleet.models import MODELS, RELEASES
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.mdm.commands import Command
from agent.mdm.facts import version
from agent.mdm.results import Result
from agent.mdm.session import Session

AUTHORITIES = IssuedOnce.create("LOM Devices"), IssuedOnce.create("LOM Controllers")
INTEL = "MacPro7,1"


def device(os: str = "27.0", model: str = "Mac16,10") -> Device:
    """An enrolled Mac."""
    return OfflineMac(Population("information", 1, os=os, model=model)[0], *AUTHORITIES, Dialect.SCHEMA).device


def asked(of: Device, *queries: str, channel: str = DEVICE_CHANNEL) -> dict[str, Any]:
    return device_information(of, queries, channel)


@pytest.mark.parametrize("model", [each.identifier for each in MODELS])
def test_numbers_of_a_mac_fit_its_chip(model: str) -> None:
    mac = device("26.5", model)
    answer = asked(mac, "UDID", "ProvisioningUDID", "ModelNumber", "EACSPreflight", "IsAppleSilicon")
    assert answer["EACSPreflight"] == "success"  # Apple silicon, or a T2 chip
    if model == INTEL:
        assert answer["ProvisioningUDID"] == answer["UDID"]
        assert "ModelNumber" not in answer
    else:
        assert re.fullmatch("0000[0-9A-F]{4}-00[0-9A-F]{14}", answer["ProvisioningUDID"])
        assert answer["ModelNumber"].endswith("LL/A")


def test_status_has_no_model_number_of_an_intel_mac() -> None:
    assert status_value(device("26.5"), "device.model.number").endswith("LL/A")
    with pytest.raises(NoStatus):
        status_value(device("26.5", INTEL), "device.model.number")


def test_push_token_is_that_of_the_user_and_not_on_the_device_channel() -> None:
    mac = device()
    assert asked(mac, "PushToken", "UDID").keys() == {"UDID"}
    user = UserDevice(mac, Account.of(mac.mac, network=False), Session(mac.mac.udid, lambda: 0.0))
    assert asked(user, "PushToken", channel=USER_CHANNEL) == {"PushToken": mac.mac.user_push_token}


def test_queries_that_a_release_does_not_have_are_left_out() -> None:
    queries = ("OSUpdateSettings", "SoftwareUpdateDeviceID", "TimeZone")
    assert asked(device("15.5"), *queries).keys() == {"OSUpdateSettings", "SoftwareUpdateDeviceID"}
    assert asked(device("26.5"), *queries).keys() == set(queries)
    assert asked(device("27.0"), *queries).keys() == {"TimeZone"}


def test_each_channel_has_its_queries() -> None:
    mac = device()
    assert asked(mac, "EACSPreflight", "ActiveManagedUsers", "UDID", channel=USER_CHANNEL).keys() == {"UDID"}
    assert set(security_information(mac, USER_CHANNEL)) == {"ManagementStatus"}
    assert "SecureBoot" in security_information(mac)


@pytest.mark.parametrize("model", ["Mac16,10", INTEL])
def test_phone_number_of_a_lock_is_shown_by_apple_silicon_only(model: str) -> None:
    body = {"RequestType": "DeviceLock", "PIN": "123456", "PhoneNumber": "+1 555 0100"}
    result = carry_out(device("26.5", model), Command("one", "DeviceLock", body))
    assert isinstance(result, Result)
    assert result.answer == ({} if model == INTEL else {"MessageResult": "Success"})


def test_firewall_says_what_it_logs() -> None:
    firewall = security_information(device())["FirewallSettings"]
    assert (firewall["LoggingEnabled"], firewall["LoggingOption"]) == (True, "throttled")


def test_capacities_differ_and_free_space_fits() -> None:
    macs = list(Population("capacities", 500))
    assert len({mac.capacity_gb for mac in macs}) == 4
    assert len({mac.available_gb for mac in macs}) > 400
    assert all(0 < mac.available_gb < mac.capacity_gb for mac in macs)


def test_macs_of_a_segment_are_in_one_time_zone() -> None:
    macs = list(Population("zones", 200, 10))
    assert len({(mac.segment, mac.time_zone) for mac in macs}) == 20
    assert len({mac.time_zone for mac in macs}) > 2


def test_host_name_does_not_change_the_local_host_name() -> None:
    mac = device()
    before = asked(mac, "LocalHostName")["LocalHostName"]
    apply_settings(mac, [{"Item": "HostName", "HostName": "rack-7.example.com"}])
    assert asked(mac, "HostName", "LocalHostName") == {"HostName": "rack-7.example.com", "LocalHostName": before}
    apply_settings(mac, [{"Item": "DeviceName", "DeviceName": "Ana’s Büro, Rack 7"}])  # noqa: RUF001
    assert asked(mac, "LocalHostName") == {"LocalHostName": "Anas-Buro-Rack-7"}
    assert mac.profile_variables["LocalHostName"] == "Anas-Buro-Rack-7"
    assert mac.profile_variables["HostName"] == "rack-7.example.com"


@given(st.text(max_size=300))
def test_local_host_name_is_a_label(name: str) -> None:
    label = local_host_name_of(name)
    assert re.fullmatch(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)?", label)
    assert local_host_name_of(label) == label


@pytest.mark.parametrize("item", [{}, {"DeviceName": "x"}, {"Item": 7}, {"Item": ["DeviceName"]}])
def test_setting_without_its_name_is_malformed(item: dict[str, Any]) -> None:
    (result,) = apply_settings(device(), [item])
    assert result["Status"] == "Error"
    assert [error["ErrorCode"] for error in result["ErrorChain"]] == [12008]
    assert "Item" not in result


def test_keys_that_are_not_in_the_schema_are_not_shown() -> None:
    mac = device()
    organization = {"OrganizationName": "Example", "OrganizationPhone": 7, "Motto": "Go"}
    options = {"BootstrapTokenAllowed": True, "Fly": True}
    apply_settings(
        mac,
        [
            {"Item": "OrganizationInfo", "OrganizationInfo": organization},
            {"Item": "MDMOptions", "MDMOptions": options},
        ],
    )
    assert asked(mac, "OrganizationInfo", "MDMOptions") == {
        "OrganizationInfo": {"OrganizationName": "Example"},
        "MDMOptions": {"BootstrapTokenAllowed": True},
    }


@pytest.mark.parametrize("item", ["DeviceName", "HostName", "MDMOptions", "OrganizationInfo"])
def test_settings_of_the_device_are_refused_on_the_user_channel(item: str) -> None:
    mac = device()
    (result,) = apply_settings(mac, [{"Item": item, item: "x"}], USER_CHANNEL)
    assert [error["ErrorCode"] for error in result["ErrorChain"]] == [12021]
    assert mac.settings.device_name == ""


@pytest.mark.parametrize("release", [each.version for each in RELEASES])
def test_apps_have_versions_of_their_own(release: str) -> None:
    apps = installed_applications(device(release, "Mac16,9" if release == "15.3.2" else "Macmini9,1").mac, None)
    assert len({app["ShortVersion"] for app in apps}) > 10
    assert len({app["Version"] for app in apps}) == len(apps)
    assert all("BundleSize" in app for app in apps) == (version(release) < version("26"))
    assert all("Path" in app for app in apps) == (version(release) >= version("27"))
    assert not any("Path" in app for app in apps) or "/Applications/Safari.app" in {app["Path"] for app in apps}


def test_apps_change_with_macos() -> None:
    older, newer = (
        {app["Identifier"]: app for app in installed_applications(device(os).mac, None)} for os in ("15.5", "27.0")
    )
    assert (older["com.apple.Safari"]["ShortVersion"], newer["com.apple.Safari"]["ShortVersion"]) == ("18.5", "27.0")
    assert all(older[app]["Version"] != newer[app]["Version"] for app in older)
    one = installed_applications(device().mac, ["com.apple.Photos", "com.example.none"])
    assert [app["ShortVersion"] for app in one] == ["12.0"]


def test_values_do_not_depend_on_the_order_of_the_queries() -> None:
    mac = device()
    assert asked(mac, *QUERIES) == asked(mac, *reversed(QUERIES))


def test_long_list_of_queries_is_answered_and_not_kept() -> None:
    of, queries = device(), ["SerialNumber", "UDID"] * 60
    _plan.cache_clear()
    assert asked(of, *queries) == asked(of, "SerialNumber", "UDID")
    assert _plan.cache_info().currsize == 1
