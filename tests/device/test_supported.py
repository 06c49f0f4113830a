"""What each release of macOS supports, by the table of Apple's schema."""

from __future__ import annotations

import json
import plistlib
from importlib.resources import files
from pathlib import Path

import pytest
from command import lom_agent_here
from msgspec.structs import replace

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.facts.information import device_information, security_information
from agent.device.facts.supported import (
    DEVICE_CHANNEL,
    FULL,
    USER_CHANNEL,
    Management,
    command_problem,
    query_exists,
    setting_problem,
)
from agent.device.installing.profiles import resumed_enrollment_steps
from agent.device.mac import UnfinishedEnrollment
from agent.device.steps import CheckIn, advance
from agent.fleet.models import RELEASES
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.mdm.commands import Command
from agent.mdm.facts import of_kind, read_facts
from agent.mdm.results import Result, Status
from agent.pki.issuing.authority import Authority
from agent.profiles.enrollment import BOOTSTRAP_CAPABILITY, PER_USER_CAPABILITY
from agent.profiles.store import ProfileStore

AUTHORITY = Authority.create("supported")

UPDATE_COMMANDS = ("AvailableOSUpdates", "OSUpdateStatus", "ScheduleOSUpdate", "ScheduleOSUpdateScan")


@pytest.mark.parametrize("name", UPDATE_COMMANDS)
def test_update_commands_end_with_macos_27(name: str) -> None:
    assert command_problem(name, "26.5") is None
    problem = command_problem(name, "27.0")
    assert problem == f"the request type {name} is not supported by macOS 27.0: it was removed in macOS 27.0"


def test_commands_exist_from_their_release_and_on_their_channel() -> None:
    enhanced = "TriggerEnhancedLogCollection"
    assert command_problem(enhanced, "27.0", USER_CHANNEL) is None
    assert command_problem(enhanced, "26.5", USER_CHANNEL) == (
        f"the request type {enhanced} is not supported by macOS 26.5: it came with macOS 27.0"
    )
    assert command_problem(enhanced, "27.0", DEVICE_CHANNEL) == (
        f"the request type {enhanced} is not supported on the device channel"
    )
    assert "on the user channel" in str(command_problem("EraseDevice", "27.0", USER_CHANNEL))


def test_unknown_names_are_not_supported_and_not_quoted_in_full() -> None:
    for problem in (command_problem("X" * 10_000, "27.0"), setting_problem("X" * 10_000, "27.0")):
        assert problem is not None
        assert len(problem) < 300
    assert not query_exists("X" * 10_000, "27.0")


@pytest.mark.parametrize(
    ("query", "releases"),
    [
        ("OSUpdateSettings", {"15.5", "26.5"}),
        ("SoftwareUpdateDeviceID", {"15.5", "26.5"}),
        ("TimeZone", {"26.5", "27.0"}),
        ("UDID", {"15.5", "26.5", "27.0"}),
    ],
)
def test_queries_exist_in_their_releases(query: str, releases: set[str]) -> None:
    assert {release for release in ("15.5", "26.5", "27.0") if query_exists(query, release)} == releases


def test_queries_and_settings_exist_on_their_channels() -> None:
    assert query_exists("EACSPreflight", "27.0", DEVICE_CHANNEL)
    assert not query_exists("EACSPreflight", "27.0", USER_CHANNEL)
    assert setting_problem("DeviceName", "27.0") is None
    assert "user channel" in str(setting_problem("DeviceName", "27.0", USER_CHANNEL))
    assert setting_problem("Wallpaper", "27.0") == "the setting Wallpaper is not supported"


@pytest.mark.parametrize(("os", "status"), [("26.4", "Acknowledged"), ("27", "Error")])
def test_the_answer_command_has_the_macos_that_is_asked_for(os: str, status: str, tmp_path: Path) -> None:
    path = tmp_path / "command.plist"
    path.write_bytes(plistlib.dumps({"CommandUUID": "one", "Command": {"RequestType": "OSUpdateStatus"}}))
    done = lom_agent_here("answer", str(path), "--os", os)
    assert done.returncode == 0, done.stderr
    assert plistlib.loads(done.stdout)["Status"] == status
    shown = json.loads(lom_agent_here("fleet", "show", "--json", "--os", f"{os}, 26.5").stdout)
    assert {mac["os_version"].partition(".")[0] for mac in shown} == {os[:2], "26"}


def test_each_command_of_the_schema_is_supported_as_its_line_says() -> None:
    for name, described in of_kind("command").items():
        for release in RELEASES:
            for channel in (DEVICE_CHANNEL, USER_CHANNEL):
                supported = described.fact.is_in(release.version) and described.fact.is_on(channel)
                assert (command_problem(name, release.version, channel) is None) == supported, (name, release, channel)
                supported &= described.fact.flag("requiresdep") is None
                assert (
                    command_problem(name, release.version, channel, Management(automated=False)) is None
                ) == supported


def test_a_mac_that_was_not_enrolled_automatically_lacks_what_needs_that() -> None:
    """Apple's ``requiresdep``; a Mac of a fleet always has what ``userapprovedmdm`` asks for."""
    needing = [name for name, each in of_kind("command").items() if each.fact.flag("requiresdep") is not None]
    assert needing == ["AccountConfiguration", "DeviceConfigured", "SetAutoAdminPassword"]
    assert command_problem("DeviceConfigured", "27.0", management=Management(automated=False)) == (
        "the request type DeviceConfigured is for a Mac that was enrolled by Automated Device Enrollment"
    )
    device = OfflineMac(Population("x", 1)[0], Authority.create("a"), Authority.create("b"), Dialect.SCHEMA).device
    queries = ["AutoSetupAdminAccounts", "UDID"]
    for automated, answered in ((True, {"AutoSetupAdminAccounts", "UDID"}), (False, {"UDID"})):
        device.settings.automated = automated
        assert device_information(device, queries).keys() == answered
        status = security_information(device)["ManagementStatus"]
        assert (status["EnrolledViaDEP"], status["UserApprovedEnrollment"]) == (automated, True)


def test_a_mac_without_supervision_lacks_what_needs_it() -> None:
    """Apple's ``supervised``, of every command of the table; the other answers of such a Mac agree."""
    needing = {name for name, each in of_kind("command").items() if each.fact.flag("supervised") is not None}
    assert {"UserList", "EnableRemoteDesktop", "TriggerEnhancedLogCollection"} <= needing
    unsupervised = Management(automated=False, supervised=False)
    for name, described in of_kind("command").items():
        for channel in (described.fact.channels or DEVICE_CHANNEL).split("|"):
            before, after = (command_problem(name, "27.0", channel, each) for each in (FULL, unsupervised))
            if before is None and name in needing:
                assert after == f"the request type {name} is for a supervised Mac"
    mac = OfflineMac(Population("x", 1)[0], AUTHORITY, AUTHORITY, Dialect.SCHEMA, supervised=False)
    device = mac.device
    assert device_information(device, ["IsSupervised"]) == {"IsSupervised": False}
    status = security_information(device)["ManagementStatus"]
    assert not status["IsActivationLockManageable"]
    assert not status["EnrolledViaDEP"]
    refused = carry_out(device, Command("x", "UserList", {}))
    assert isinstance(refused, Result)
    assert refused.errors[0].code == 12021
    device.settings.automated = True  # Automated Device Enrollment supervises it
    assert device_information(device, ["IsSupervised"]) == {"IsSupervised": True}
    assert carry_out(device, Command("x", "UserList", {})).status is Status.ACKNOWLEDGED  # type: ignore[union-attr]


def test_a_mac_without_supervision_escrows_no_bootstrap_token() -> None:
    """Source: apple-schema checkin/setbootstraptoken.yaml, ``supervised``."""
    found = {}
    for supervised in (True, False):
        device = OfflineMac(Population("x", 1)[0], AUTHORITY, AUTHORITY, Dialect.SCHEMA, supervised=supervised).device
        enrollment = replace(device.enrollment, capabilities=(BOOTSTRAP_CAPABILITY, PER_USER_CAPABILITY))
        steps = resumed_enrollment_steps(device, UnfinishedEnrollment(enrollment, ProfileStore()))
        sent, need = [], advance(steps, None)
        while isinstance(need, CheckIn):
            sent.append(need.message["MessageType"])
            need = advance(steps, b"")
        found[supervised] = sent
    assert found == {True: ["Authenticate", "TokenUpdate", "SetBootstrapToken"], False: ["Authenticate", "TokenUpdate"]}


def test_each_key_of_one_channel_is_judged() -> None:
    """What the table limits to one channel is of a kind that the device judges: more needs code."""
    table = files("agent.mdm").joinpath("facts.tsv").read_text(encoding="utf-8")
    limited = {
        (fact.kind, fact.message if fact.kind == "command" else "", fact.part, fact.path.partition("/")[0])
        for fact in read_facts(table)
        if fact.path and fact.channels and fact.kind not in ("check-in", "declaration")
    }
    assert limited == {
        ("command", "DeviceInformation", "request", "Queries"),
        ("command", "ManagedApplicationList", "response", "ManagedApplicationList"),
        ("command", "SecurityInfo", "response", "SecurityInfo"),
        ("command", "Settings", "request", "Settings"),
    }
