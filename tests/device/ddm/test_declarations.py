"""Declarations without a network: what is valid on which release, what takes effect, and what is reported."""

from __future__ import annotations

import hashlib
import json
import plistlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from apple_schema import problems
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from issued_once import IssuedOnce

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.ddm.declared import Declaration, Declared, as_json
from agent.device.ddm.status import capabilities, status_value, supported_items
from agent.device.ddm.synchronising import FULL_REPORT_SECONDS, DeclarationsMalformed, is_changed, refresh, synchronise
from agent.device.ddm.validation import asset_references, faults_of
from agent.device.mac import Device
from agent.device.steps import CheckIn, Done, Download, DownloadByMDM, Steps, advance
from agent.device.stored.record import device_record, restore_device
from agent.device.stored.types import DeviceRecord
from agent.device.system import INSTALLED, App
from agent.device.users.channel import Account, UserDevice
from agent.errors import PeerError
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.mdm.commands import Command
from agent.mdm.facts import Fact, of_kind, read_facts
from agent.mdm.refusals import ServerRefused
from agent.mdm.results import Result, Status
from agent.mdm.session import Session

NOON = 1_800_000_000.0
TABLE = list(read_facts(files("agent.mdm").joinpath("facts.tsv").read_text(encoding="utf-8")))
KEYS_OF_ONE_CHANNEL = [fact for fact in TABLE if fact.kind == "declaration" and fact.path and fact.channels]
AUTHORITY = IssuedOnce.create("declarations")


def mac(os: str = "26.2") -> Device:
    return OfflineMac(Population("ddm", 1, os=os, model="Mac14,3")[0], AUTHORITY, AUTHORITY, Dialect.SCHEMA).device


class Server:
    """A server of declarations, by identifier, and what a Mac asked it and reported to it."""

    def __init__(self, *declarations: dict[str, Any]) -> None:
        self.declarations = {each["Identifier"]: each for each in declarations}
        self.token = "1"
        self.files: dict[str, bytes] = {}
        self.gone: set[str] = set()
        self.asked: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self.accepts = True

    def run(self, steps: Steps[None]) -> None:
        need = advance(steps, None)
        while not isinstance(need, Done):
            match need:
                case CheckIn(message):
                    need = advance(steps, self._answer(message))
                case Download(url) | DownloadByMDM(url):
                    self.asked.append(url)
                    found = self.files.get(url)
                    need = advance(steps, ServerRefused("there is no such file", 404) if found is None else found)
                case _:
                    raise AssertionError(need)

    def synchronise(self, device: Device) -> None:
        self.run(synchronise(device, b"", lambda: NOON))

    def refresh(self, device: Device, now: float = NOON, *, full: bool = False) -> None:
        self.run(refresh(device, lambda: now, full=full))

    def _answer(self, message: Mapping[str, Any]) -> bytes | PeerError:
        endpoint = message["Endpoint"]
        self.asked.append(endpoint)
        if endpoint == "status":
            if not self.accepts:
                return ServerRefused("later", 500)
            self.reports.append(json.loads(message["Data"]))
            return b""
        if endpoint == "tokens":
            return as_json({"SyncTokens": {"DeclarationsToken": self.token, "Timestamp": "2027-01-01T00:00:00Z"}})
        if endpoint == "declaration-items":
            items: dict[str, Any] = {"Activations": [], "Assets": [], "Configurations": [], "Management": []}
            for each in self.declarations.values():
                kind = each["Type"].split(".")[2]
                key = {"management": "Management"}.get(kind, f"{kind.capitalize()}s")
                items[key].append({"Identifier": each["Identifier"], "ServerToken": each["ServerToken"]})
            return as_json({"Declarations": items, "DeclarationsToken": self.token})
        identifier = endpoint.rpartition("/")[2]
        return ServerRefused("no", 404) if identifier in self.gone else as_json(self.declarations[identifier])

    @property
    def states(self) -> dict[str, tuple[bool, str, list[str]]]:
        """The state of each declaration in the last report of them."""
        found = [each["StatusItems"]["management"] for each in self.reports if "management" in each["StatusItems"]]
        last = next(each["declarations"] for each in reversed(found) if "declarations" in each)
        return {
            item["identifier"]: (item["active"], item["valid"], [why["code"] for why in item.get("reasons", [])])
            for items in last.values()
            for item in items
        }


def declaration(kind: str, identifier: str, token: str = "t", **payload: Any) -> dict[str, Any]:
    return {"Type": f"com.apple.{kind}", "Identifier": identifier, "ServerToken": token, "Payload": payload}


def activation(*configurations: str, identifier: str = "activation", **more: Any) -> dict[str, Any]:
    return declaration("activation.simple", identifier, StandardConfigurations=list(configurations), **more)


def subscription(*names: str, token: str = "t") -> dict[str, Any]:
    items = [{"Name": name} for name in names]
    return declaration("configuration.management.status-subscriptions", "subscription", token, StatusItems=items)


# What is valid.

SSO = {"ExtensionComposedIdentifier": "com.example.sso (TEAM)", "Type": "Redirect"}
VPN = {"VisibleName": "A", "HostName": "vpn.test"}
CACHE, APP = "configuration.content-cache.settings", "configuration.app.managed"
PROGRAM = {"Description": "a", "Token": "b"}
TEST, UPDATE = "configuration.management.test", "configuration.softwareupdate.enforcement.specific"
DATA = {"Reference": {"DataURL": "https://mdm.invalid/data", "Size": 3}}
UNKNOWN_TYPE, UNKNOWN_KEYS = "Error.UnknownDeclarationType", "Error.UnknownPayloadKeys"
WRONG, NOT_WHOLE = "Error.ConfigurationCannotBeDeserialized", "Error.InvalidPayload"


@pytest.mark.parametrize(
    ("kind", "payload", "release", "code"),
    [
        (TEST, {"Echo": "a"}, "15.1", ""),
        (TEST, {"Echo": "a", "ReturnStatus": "Failed"}, "15.1", ""),
        (TEST, {"Echo": "a", "ReturnStatus": "Perhaps"}, "15.1", WRONG),
        (TEST, {}, "15.1", WRONG),
        (TEST, {"Echo": 1}, "15.1", WRONG),
        (TEST, {"Echo": "a", "echo": "a"}, "15.1", UNKNOWN_KEYS),
        (TEST, {"Echo": "a", "EchoDataAssetReference": "x"}, "13.6", UNKNOWN_KEYS),  # came with 14.0
        ("configuration.no.such", {}, "27.0", UNKNOWN_TYPE),
        ("configuration.network.relay", {}, "26.4", UNKNOWN_TYPE),
        ("configuration.network.relay", {"VisibleName": "A", "Relays": []}, "27.0", ""),
        (
            "configuration.network.relay",
            {"VisibleName": "A", "Relays": [], "RelayUUID": "of iOS"},
            "27.0",
            UNKNOWN_KEYS,
        ),
        ("configuration.network.relay", {"Relays": [{"HTTP2RelayURL": 1}], "VisibleName": "A"}, "27.0", WRONG),
        ("configuration.intelligence.settings", {"Apps": {"Calendar": {}}}, "26.6", UNKNOWN_KEYS),  # came with 27.0
        ("configuration.intelligence.settings", {"Apps": {"Calendar": {}}}, "27.0", ""),
        ("configuration.network.vpn.ikev2", {"MTU": 1300, "Idle": {"Rate": 1}}, "27.0", UNKNOWN_KEYS),
        ("configuration.network.vpn.ikev2", {"MTU": 1300}, "27.0", WRONG),  # the others are required
        ("configuration.network.vpn.ipsec", {**VPN, "Authentication": {"Method": "Certificate"}}, "27.0", ""),
        ("configuration.network.vpn.ipsec", {**VPN, "Authentication": {"Method": "Password"}}, "27.0", WRONG),
        (
            "configuration.network.vpn.vpn-plugin",
            {
                **VPN,
                "SubType": "a",
                "Authentication": {"Method": "Password"},
                "OnDemand": {"Rules": [{"Action": "Connect", "SSIDMatch": ["x"]}]},
            },
            "27.0",
            "",
        ),
        (
            "configuration.extensible-sso",
            {**SSO, "PlatformSSO": {"Policies": {"Login": ["RequireTouchID"]}}},
            "27.0",
            "",
        ),
        ("configuration.extensible-sso", {**SSO, "PlatformSSO": {"Policies": {"Login": ["Never"]}}}, "27.0", WRONG),
        (CACHE, {"AutoActivation": True, "ListenRanges": [{"first": "a", "last": "b"}], "Port": 0}, "27.0", ""),
        (CACHE, {"anything": 1}, "27.0", UNKNOWN_KEYS),
        (CACHE, {"ListenRanges": [{"first": "a"}]}, "27.0", WRONG),
        (CACHE, {"ManagementReportingInterval": 59}, "27.0", WRONG),
        (CACHE, {"ParentSelectionPolicy": "best"}, "27.0", WRONG),
        (CACHE, {}, "26.6", UNKNOWN_TYPE),
        (CACHE, {"AllowPersonalCaching": False, "AllowSharedCaching": False}, "27.0", WRONG),
        (CACHE, {"ManagementSecurityConfig": "signedByCACert"}, "27.0", WRONG),
        (APP, {}, "26.2", WRONG),
        (APP, {"BundleID": "a", "AppStoreID": "1"}, "26.2", WRONG),
        (APP, {"AppComposedIdentifier": "a"}, "26.2", ""),
        ("configuration.softwareupdate.settings", {"Beta": {"RequireProgram": PROGRAM}}, "15.4", WRONG),
        ("configuration.keyboard.settings", {"AllowDictation": False}, "26.4", ""),
        ("configuration.keyboard.settings", {"AllowSlideToType": False}, "26.4", UNKNOWN_KEYS),  # of iOS
        ("configuration.keyboard.settings", {}, "26.3", UNKNOWN_TYPE),
        ("configuration.external-intelligence.settings", {"AllowedWorkspaceIDs": ["a"]}, "26.4", ""),
        ("configuration.migration-assistant.settings", {"ShouldDoManagedMigration": True}, "26.4", WRONG),
        ("configuration.safari.bookmarks", {}, "26.0", "Error.ConfigurationNotSupported"),  # of the user channel
        ("configuration.softwareupdate.settings", {"Beta": {"ProgramEnrollment": "AlwaysOff"}}, "15.3", UNKNOWN_KEYS),
        ("configuration.softwareupdate.settings", {"Beta": {"ProgramEnrollment": "AlwaysOff"}}, "15.4", ""),
        ("configuration.package", {"ManifestURL": "https://a/", "UninstallBehavior": {}}, "26.6", UNKNOWN_KEYS),
        ("configuration.package", {"ManifestURL": "https://a/", "UninstallBehavior": {"Remove": 1}}, "27.0", WRONG),
        ("configuration.account.mail", {}, "27.0", "Error.ConfigurationNotSupported"),  # of the user channel
        (UPDATE, {"TargetOSVersion": "27.0", "TargetLocalDateTime": "2027-01-01T00:00:00"}, "13.6", UNKNOWN_TYPE),
        (UPDATE, {"TargetOSVersion": "27.0"}, "26.4", WRONG),
        ("configuration.passcode.settings", {"MinimumLength": 17}, "15.1", WRONG),
        ("configuration.passcode.settings", {"MinimumLength": True}, "15.1", WRONG),
        ("configuration.legacy", {"ProfileURL": "https://mdm.invalid/p"}, "15.1", ""),
        ("configuration.legacy", {"ProfileAssetReference": "a"}, "26.4", UNKNOWN_KEYS),
        ("configuration.legacy", {"ProfileAssetReference": "a"}, "27.0", ""),
        ("configuration.legacy", {}, "27.0", WRONG),
        (
            "configuration.management.status-subscriptions",
            {"StatusItems": [{"Name": "a", "Nam": "b"}]},
            "15.1",
            UNKNOWN_KEYS,
        ),
        ("configuration.management.status-subscriptions", {"StatusItems": ["a"]}, "15.1", WRONG),
        ("activation.simple", {"StandardConfigurations": ["a"], "Predicate": "TRUEPREDICATE"}, "15.1", ""),
        ("activation.simple", {"StandardConfigurations": "a"}, "15.1", NOT_WHOLE),
        ("activation.simple", {"StandardConfigurations": [], "Else": 1}, "15.1", UNKNOWN_KEYS),
        ("asset.data", DATA, "15.1", ""),
        ("asset.data", {"Reference": {"DataURL": "https://mdm.invalid/", "Sise": 3}}, "15.1", UNKNOWN_KEYS),
        ("management.properties", {"anything": {"at": ["all"]}}, "15.1", ""),
        ("management.organization-info", {"Name": "A", "Proof": {"IdentityToken": 1}}, "15.1", NOT_WHOLE),
    ],
)
def test_validity(kind: str, payload: dict[str, Any], release: str, code: str) -> None:
    each = Declaration(kind.partition(".")[0], "x", "t", f"com.apple.{kind}", as_json(payload))
    faults = faults_of(each, release, "device")
    assert [fault["code"] for fault in faults] == ([code] if code else [])
    known = of_kind("declaration")["any"].reasons
    for fault in faults:
        if fault["code"] != UNKNOWN_TYPE:  # which Macs send, and the schema lacks
            assert set(fault["details"]) == set(known[fault["code"]].keys)


def test_unknown_keys_are_named_by_their_paths() -> None:
    payload = {"Restrictions": {"ExternalStorage": "Allowed", "Floppy": "Disallowed"}, "Else": 1}
    each = Declaration("configuration", "x", "t", "com.apple.configuration.diskmanagement.settings", as_json(payload))
    (fault,) = faults_of(each, "15.1", "device")
    assert fault["details"] == {"UnknownPayloadKeys": ["Else", "Restrictions.Floppy"]}


def test_references_to_assets_by_the_schema() -> None:
    payload = {
        "TaskType": "x",
        "ExecutableAssetReference": "a",
        "LaunchdConfigurations": [{"Context": "daemon", "FileAssetReference": "b"}],
    }
    each = Declaration("configuration", "x", "t", "com.apple.configuration.services.background-tasks", as_json(payload))
    assert asset_references(each, "15.1") == {"a", "b"}
    config = {"DataAssetReference": "c", "Passwords": [{"Identifier": "x", "AssetReference": "d"}]}
    payload = {"BundleID": "x", "AppConfig": config, "ExtensionConfigs": {"com.example.x": {"DataAssetReference": "e"}}}
    each = Declaration("configuration", "x", "t", "com.apple.configuration.app.managed", as_json(payload))
    assert faults_of(each, "27.0", "device") == []
    assert asset_references(each, "27.0") == {"c", "d", "e"}


def test_asset_has_to_be_of_the_type_that_the_reference_allows() -> None:
    certificate = declaration("asset.credential.certificate", "asset", Reference={"DataURL": "https://mdm.invalid/a"})
    test = declaration(TEST, "test", Echo="a", EchoDataAssetReference="asset")
    device, server = mac(), Server(certificate, test, activation("test"))
    server.files["https://mdm.invalid/a"] = b"data"
    server.synchronise(device)
    assert server.states["test"] == (False, "invalid", ["Error.ConfigurationCannotBeApplied"])
    server.token, server.declarations["asset"] = "2", declaration("asset.data", "asset", "u", **certificate["Payload"])
    server.synchronise(device)
    assert server.states["test"][:2] == (True, "valid")


@pytest.mark.parametrize("fact", KEYS_OF_ONE_CHANNEL, ids=lambda fact: f"{fact.message}:{fact.path}")
def test_key_of_the_other_channel_is_unknown(fact: Fact) -> None:
    channels = {channel: fact.is_on(channel) for channel in ("device", "user")}
    assert sorted(channels.values()) == [False, True]
    *above, name = fact.path.split("/")
    payload: Any = {name: {"array": [], "boolean": True, "dictionary": {}}[fact.type]}
    for key in reversed(above):
        payload = {key: payload}
    each = Declaration("configuration", "x", "t", fact.message, as_json(payload))
    for channel, known in channels.items():
        unknown = [
            why["details"]["UnknownPayloadKeys"]
            for why in faults_of(each, "27.0", channel)
            if why["code"] == UNKNOWN_KEYS
        ]
        assert unknown == ([] if known else [[fact.path.replace("/", ".")]])


def test_mac_without_supervision_refuses_configurations_and_says_why() -> None:
    server = Server(declaration(TEST, "test", Echo="a"), subscription("device.model.family"), activation("test"))
    device = mac("27.0")
    device.settings.automated = device.supervised_by_profile = False
    server.synchronise(device)
    assert server.states["test"] == (False, "invalid", ["Error.ConfigurationNotSupported"])
    assert server.states["activation"][1] == "valid"
    capabilities = server.reports[-1]["StatusItems"]["management"]["client-capabilities"]
    supported = capabilities["supported-payloads"]
    assert supported["declarations"]["configurations"] == []
    assert "com.apple.activation.simple" in supported["declarations"]["activations"]
    assert supported["status-items"] == ["management.client-capabilities", "management.declarations"]
    assert problems(server.reports[-1], of_kind("protocol")["StatusReport"].request) == []


def legacy_profile(*payload_uuids: str, profile_uuid: str = "P") -> bytes:
    def keys(kind: str, uuid: str) -> dict[str, Any]:
        return {"PayloadType": kind, "PayloadIdentifier": f"com.example.{uuid}", "PayloadUUID": uuid}

    content = [{**keys("com.example.other", uuid), "PayloadVersion": 1} for uuid in payload_uuids]
    return plistlib.dumps({**keys("Configuration", profile_uuid), "PayloadVersion": 1, "PayloadContent": content})


@pytest.mark.parametrize(
    ("blob", "taken"),
    [
        (legacy_profile("A", "B"), True),
        (legacy_profile("A"), False),
        (legacy_profile("B", "A"), False),
    ],
)
def test_declaration_takes_over_the_profile_of_a_command_that_is_like_its_own(blob: bytes, taken: bool) -> None:
    """Source: Apple's page of LegacyProfile, "Transition profiles from MDM"."""

    def installed(octets: bytes) -> Result:
        steps = carry_out(device, Command("x", "InstallProfile", {"Payload": octets}))
        assert not isinstance(steps, Result)
        need = advance(steps, None)
        assert isinstance(need, Done)
        assert isinstance(need.value, Result)
        return need.value

    device, url = mac("27.0"), "https://mdm.invalid/p"
    assert installed(legacy_profile("A", "B")).status is Status.ACKNOWLEDGED
    server = Server(declaration("configuration.legacy", "legacy", ProfileURL=url), activation("legacy"))
    server.files[url] = blob
    server.synchronise(device)
    assert server.states["legacy"][:2] == ((True, "valid") if taken else (False, "invalid"))
    (profile,) = device.profiles
    assert profile.is_declared is taken
    assert [each["PayloadUUID"] for each in profile.listed["PayloadContent"]] == ["A", "B"]
    again = installed(legacy_profile("A", "B"))  # no command changes what a declaration has
    assert [error.code for error in again.errors][1:] == ([12013] if taken else [])
    server.token, server.declarations = "2", {}
    server.synchronise(device)
    assert len(list(device.profiles)) == (0 if taken else 1)


def test_configuration_of_content_caching_turns_it_on_and_off() -> None:
    device, server = mac("27.0"), Server(declaration(CACHE, "cache", AutoActivation=True), activation("cache"))
    server.synchronise(device)
    assert server.states["cache"] == (True, "valid", [])
    assert status_value(device, "content-cache.status")["active"] is True
    server.token, server.declarations["cache"] = "2", declaration(CACHE, "cache", "u", DenyActivation=True)
    server.synchronise(device)
    assert status_value(device, "content-cache.status")["active"] is False


# Status.


class UserMac(Device):
    """A Mac on its user channel."""

    __slots__ = ()
    channel = "user"


@pytest.mark.parametrize("channel", ["device", "user"])
@pytest.mark.parametrize("release", ["13.6", "15.1", "26.2", "27.0"])
def test_each_status_item_conforms_to_the_schema(release: str, channel: str) -> None:
    device = mac(release)
    device.__class__ = Device if channel == "device" else UserMac
    names = set(capabilities(release, channel)["supported-payloads"]["status-items"])
    assert names == supported_items(release, channel)
    for name in names - {"test.error-value"}:
        keys = of_kind("status")[name].request
        found = problems({name: status_value(device, name)}, keys, release=release, channel=channel)
        assert [each for each in found if "should be <data>, but is str" not in each] == [], name  # base64 in JSON


def test_capabilities_follow_the_channel() -> None:
    device, user = (capabilities("27.0", channel)["supported-payloads"] for channel in ("device", "user"))
    assert "enhanced-logging.status" in set(user["status-items"]) - set(device["status-items"])
    assert "softwareupdate.install-state" in set(device["status-items"]) - set(user["status-items"])
    assert "com.apple.configuration.account.mail" in user["declarations"]["configurations"]


def test_capabilities_follow_the_release() -> None:
    before, after = (capabilities(release, "device")["supported-payloads"] for release in ("26.2", "27.0"))
    assert "mdm.push-magic" not in before["status-items"]
    assert {"mdm.push-magic", "content-cache.status"} <= set(after["status-items"])
    assert "com.apple.configuration.network.relay" not in before["declarations"]["configurations"]
    assert "com.apple.configuration.network.relay" in after["declarations"]["configurations"]
    assert "com.apple.configuration.account.mail" not in after["declarations"]["configurations"]


def test_reports_are_incremental_until_the_full_one() -> None:
    device, server = (
        mac(),
        Server(
            subscription("device.model.family", "mdm.is-awaiting-configuration", "no.such"), activation("subscription")
        ),
    )
    server.synchronise(device)
    (first,) = server.reports
    assert first["StatusItems"]["device"] == {"model": {"family": "Mac"}}
    assert set(first["StatusItems"]["management"]) == {"client-capabilities", "declarations"}
    assert "FullReport" not in first
    assert [error["StatusItem"] for error in first["Errors"]] == ["mdm.is-awaiting-configuration", "no.such"]  # of 27
    assert problems(first, of_kind("protocol")["StatusReport"].request) == []
    assert not is_changed(device)
    server.refresh(device)
    assert len(server.reports) == 1  # nothing changed
    device.mac = device.mac.with_release("27.0", "26A428")
    assert is_changed(device)
    server.refresh(device)
    assert server.reports[1]["StatusItems"]["mdm"] == {"is-awaiting-configuration": False}
    assert server.reports[1]["StatusItems"]["management"].keys() == {"client-capabilities"}
    assert server.reports[1]["Errors"] == []
    device.settings.awaiting_configuration = True
    server.refresh(device)
    assert server.reports[2] == {"StatusItems": {"mdm": {"is-awaiting-configuration": True}}, "Errors": []}
    assert device.declared.full_report_at == NOON + FULL_REPORT_SECONDS
    server.refresh(device, NOON + FULL_REPORT_SECONDS, full=True)
    full = server.reports[3]
    assert (full["FullReport"], full["StatusItems"]["device"]["model"]["family"]) == (True, "Mac")
    assert [error["StatusItem"] for error in full["Errors"]] == ["no.such"]
    assert device.declared.full_report_at == NOON + 2 * FULL_REPORT_SECONDS
    server.token = "2"
    server.declarations["subscription"] = subscription("device.model.family", token="u")
    server.synchronise(device)
    device.settings.awaiting_configuration = False
    assert not is_changed(device)  # no longer subscribed


def test_full_report_is_of_macos_14() -> None:
    device, server = mac("13.6"), Server(activation())
    server.synchronise(device)
    server.refresh(device, full=True)
    assert "FullReport" not in server.reports[-1]


def test_refused_report_is_sent_again() -> None:
    device, server = mac(), Server(activation())
    server.accepts = False
    with pytest.raises(ServerRefused):
        server.synchronise(device)
    assert is_changed(device)
    server.accepts = True
    server.refresh(device)
    assert server.states == {"activation": (True, "valid", [])}


# What takes effect.


def test_assets_are_downloaded_again_when_they_change() -> None:
    asset = declaration("asset.data", "asset", **DATA)
    test = declaration(TEST, "test", Echo="a", EchoDataAssetReference="asset")
    device, server = mac(), Server(asset, test, activation("test"))
    server.files["https://mdm.invalid/data"] = b"1234"  # not 3 bytes
    server.synchronise(device)
    assert server.states["asset"] == (False, "invalid", ["Error.AssetCannotBeVerified"])
    assert server.states["test"] == (False, "invalid", ["Error.ConfigurationCannotBeApplied"])
    count = len(server.asked)
    server.refresh(device)
    assert len(server.asked) == count  # what failed is not tried again with each look
    server.files["https://mdm.invalid/data"] = b"123"
    server.refresh(device, full=True)  # but once a day
    assert server.states["test"] == (True, "valid", ["a"])
    assert '"description": "123"' in json.dumps(server.reports[-1])
    server.token, asset["ServerToken"] = "2", "u"
    server.synchronise(device)
    assert server.asked.count("https://mdm.invalid/data") == 3
    assert server.asked.count("declaration/configuration/test") == 1


def test_configuration_that_reports_failure() -> None:
    device, server = (
        mac(),
        Server(declaration(TEST, "test", Echo="out of order", ReturnStatus="Failed"), activation("test")),
    )
    server.synchronise(device)
    assert server.states["test"] == (False, "invalid", ["out of order"])


@pytest.mark.parametrize("first", ["device", "user"])
def test_an_app_that_is_declared_twice_stays_until_nothing_declares_it(first: str) -> None:
    device = mac(os="26.4")
    user = UserDevice(device, Account.of(device.mac, network=False), Session(device.mac.udid, lambda: 0.0))
    device.user = user
    required = {"InstallBehavior": {"Install": "Required"}}
    declared = [declaration("configuration.app.managed", "app", BundleID="com.example.app", **required)]
    servers = {"device": Server(*declared, activation("app")), "user": Server(*declared, activation("app"))}
    channels = {"device": device, "user": user}
    for name, server in servers.items():
        server.synchronise(channels[name])
    for name, left in ((first, {"com.example.app"}), ("user" if first == "device" else "device", set())):
        servers[name].token = "2"
        servers[name].declarations.clear()
        servers[name].synchronise(channels[name])
        assert {app.identifier for app in device.system.apps} == left


def test_declared_apps_and_packages_show_their_state() -> None:
    url, content = "https://mdm.invalid/", b"a package"
    assets = [{"kind": "software-package", "url": f"{url}pkg", "sha256-hash": hashlib.sha256(content).hexdigest()}]
    metadata = {"kind": "software", "bundle-identifier": "com.example.tool", "bundle-version": "1.2", "title": "Tool"}
    required = {"InstallBehavior": {"Install": "Required"}}
    names = ["app", "optional", "package", "broken"]
    server = Server(
        declaration("configuration.app.managed", "app", BundleID="com.example.app", **required),
        declaration("configuration.app.managed", "optional", AppStoreID="42"),
        declaration("configuration.package", "package", ManifestURL=f"{url}manifest", **required),
        declaration("configuration.package", "broken", ManifestURL=f"{url}no-such", **required),
        subscription("app.managed.list", "package.list"),
        activation(*names[1:], "subscription"),
        activation("app", identifier="of-the-app"),
    )
    server.files[f"{url}manifest"] = plistlib.dumps({"items": [{"assets": assets, "metadata": metadata}]})
    server.files[f"{url}pkg"] = content
    device = mac()
    server.synchronise(device)
    assert all(server.states[name] == (True, "valid", []) for name in names)
    shown = server.reports[-1]["StatusItems"]
    assert [(item["identifier"], item["state"]) for item in shown["app"]["managed"]["list"]] == [
        ("com.example.app", "managed"),
        ("app.42", "optional"),
    ]
    installed, failed = shown["package"]["list"]
    assert (installed["identifier"], installed["version"], installed["state"]) == (
        "com.example.tool",
        "1.2",
        "installed",
    )
    assert (failed["identifier"], failed["state"]) == ("broken", "failed")
    assert [why["code"] for why in failed["reasons"]] == ["Error.DownloadFailed"]
    for name in ("app.managed.list", "package.list"):
        assert problems({name: status_value(device, name)}, of_kind("status")[name].request, release="26.2") == []
    assert {app.identifier for app in device.system.apps} == {"com.example.app", "com.example.tool"}
    server.token = "2"
    del server.declarations["app"], server.declarations["of-the-app"]
    server.synchronise(device)
    assert server.reports[-1]["StatusItems"]["app"]["managed"]["list"] == [
        {"identifier": "com.example.app", "_removed": True},
    ]
    assert {app.identifier for app in device.system.apps} == {"com.example.tool"}


@pytest.mark.parametrize("removed", [True, False])
def test_package_is_updated_by_its_version_and_removed_as_it_was_installed(removed: bool) -> None:
    """Source: Apple, "Installing packages"."""
    url, content = "https://mdm.invalid/", b"a package"
    assets = [{"kind": "software-package", "url": f"{url}pkg", "sha256-hash": hashlib.sha256(content).hexdigest()}]

    def manifest(version: str) -> bytes:
        metadata = {"kind": "software", "bundle-identifier": "tool", "bundle-version": version, "title": "Tool"}
        return plistlib.dumps({"items": [{"assets": assets, "metadata": metadata}]})

    def package(token: str, *, remove: bool) -> dict[str, Any]:
        keys = {"InstallBehavior": {"Install": "Required"}, "UninstallBehavior": {"Remove": remove}}
        return declaration("configuration.package", "package", token, ManifestURL=f"{url}manifest", **keys)

    device, server = mac("27.0"), Server(package("1", remove=removed), activation("package"))
    server.files = {f"{url}manifest": manifest("1"), f"{url}pkg": content}
    server.synchronise(device)
    assert server.states["package"] == (True, "valid", [])
    server.token, server.declarations["package"] = "2", package("2", remove=not removed)
    server.synchronise(device)  # the version is installed: nothing is downloaded, and nothing else changes
    assert server.asked.count(f"{url}pkg") == 1
    assert [(app.version, app.removable) for app in device.system.apps] == [("1", removed)]
    server.token, server.declarations["package"] = "3", package("3", remove=removed)
    server.files[f"{url}manifest"] = manifest("2")
    server.synchronise(device)
    assert server.asked.count(f"{url}pkg") == 2
    assert device.system.unenrolled().apps == (() if removed else device.system.apps)
    server.token, server.declarations = "4", {}
    server.synchronise(device)
    assert [app.version for app in device.system.apps] == ([] if removed else ["2"])


def test_accounts_and_unresolved_groups_are_listed_while_their_configurations_are_in_effect() -> None:
    def connection(uuid: str) -> dict[str, Any]:
        keys = {"DisplayName": "a", "HostName": "a", "DisplayConfiguration": {"DisplayType": "Virtual1"}}
        return declaration("configuration.screensharing.connection", uuid, ConnectionUUID=uuid, **keys)

    host = {"AuthenticationMethod": "None", "Port": 993}
    incoming, outgoing = {**host, "HostName": "in", "ServerType": "IMAP"}, {**host, "HostName": "out"}
    group = {"ConnectionGroupUUID": "G", "GroupName": "a", "Members": ["one", "two"]}
    server = Server(
        declaration("configuration.account.caldav", "calendar", HostName="cal", VisibleName="Work"),
        declaration("configuration.account.mail", "mail", IncomingServer=incoming, OutgoingServer=outgoing),
        declaration("configuration.screensharing.connection.group", "group", **group),
        connection("one"),
        activation("calendar", "mail", "group", "one"),
    )
    device = mac("27.0")
    user = UserDevice(device, Account.of(device.mac, network=False), Session(device.mac.udid, lambda: 0.0))
    server.synchronise(user)
    names = [f"account.list.{kind}" for kind in ("caldav", "mail.incoming", "mail.outgoing", "ldap")]
    names.append("screensharing.connection.group.unresolved-connection")
    values = {name: status_value(user, name) for name in names}
    for name, value in values.items():
        assert problems({name: value}, of_kind("status")[name].request, release="27.0", channel="user") == []
    shown = [[item.get("hostname", item["identifier"]) for item in value] for value in values.values()]
    assert shown == [["cal"], ["in"], ["out"], [], ["G"]]
    assert values[names[0]][0]["visible-name"] == "Work"
    assert values[names[-1]][0]["unresolved_connections"] == ["two"]
    server.token = "2"
    server.declarations |= {"two": connection("two"), "activation": activation("group", "one", "two")}
    server.declarations["activation"]["ServerToken"] = "u"
    server.synchronise(user)
    assert [status_value(user, name) for name in names] == [[], [], [], [], []]


def test_states_of_the_configurations_of_an_app_and_its_extensions() -> None:
    keys = {"AppConfig": {}, "ExtensionConfigs": {"com.example.extension": {}}}
    device, server = mac("27.0"), Server(declaration(APP, "app", BundleID="com.example.app", **keys), activation("app"))
    server.synchronise(device)
    (item,) = status_value(device, "app.managed.list")
    valid = {"state": "valid"}
    assert item["config-state"] == {
        "app-config-state": valid,
        "extension-config-state": {"com.example.extension": valid},
    }
    assert problems({"app.managed.list": [item]}, of_kind("status")["app.managed.list"].request, release="27.0") == []


def test_app_of_a_composed_identifier_is_managed_once_it_is_installed_in_another_way() -> None:
    """Source: Apple's page of AppManaged, AppComposedIdentifier."""
    required = {"InstallBehavior": {"Install": "Required"}}
    named = declaration(APP, "app", AppComposedIdentifier="com.example.tool (TEAM)", **required)
    device, server = mac(), Server(named, subscription("app.managed.list"), activation("app", "subscription"))
    server.synchronise(device)
    (item,) = server.reports[-1]["StatusItems"]["app"]["managed"]["list"]
    assert (item["identifier"], item["state"]) == ("com.example.tool", "not-present")
    assert device.system.apps == ()
    assert not is_changed(device)
    device.system = device.system.with_app(App(identifier="com.example.tool", status=INSTALLED, version="3"))
    assert is_changed(device)
    server.refresh(device)
    (item,) = server.reports[-1]["StatusItems"]["app"]["managed"]["list"]
    assert item["state"] == "managed"
    assert [(app.version, app.declared) for app in device.system.apps] == [("3", True)]
    assert not is_changed(device)


def order(identifier: str, version: str, date: str) -> dict[str, Any]:
    return declaration(UPDATE, identifier, TargetOSVersion=version, TargetLocalDateTime=date)


def test_earliest_enforced_update_counts_and_goes_with_its_declaration() -> None:
    later, sooner = order("later", "27.0", "2027-03-01T00:00:00"), order("sooner", "26.4", "2027-02-01T00:00:00")
    device, server = (
        mac(),
        Server(later, sooner, order("old", "26.1", "2027-01-01T00:00:00"), activation("later", "sooner", "old")),
    )
    server.synchronise(device)
    assert device.update is not None
    assert (device.update.version, device.update.declaration) == ("26.4", "sooner")
    server.token = "2"
    del server.declarations["sooner"]
    server.declarations["activation"] = activation("later", "old") | {"ServerToken": "u"}
    server.synchronise(device)
    assert (device.update.version, device.update.local_time) == ("27.0", "2027-03-01T00:00:00")
    server.token = "3"
    server.declarations = {}
    server.synchronise(device)
    assert device.update is None


def test_declarations_of_the_user_leave_the_update_of_the_mac_alone() -> None:
    device, server = mac(), Server(order("update", "27.0", "2027-03-01T00:00:00"), activation("update"))
    user = UserDevice(device, Account.of(device.mac, network=False), Session(device.mac.udid, lambda: 0.0))
    server.synchronise(device)
    before = device.update
    assert before is not None
    of_user = Server(declaration("configuration.account.caldav", "calendar", HostName="a"), activation("calendar"))
    of_user.synchronise(user)
    assert of_user.states["calendar"][:2] == (True, "valid")
    assert device.update == before


@pytest.mark.parametrize(("version", "date"), [("27.0", "tomorrow"), ("latest", "2027-03-01T00:00:00")])
def test_date_or_version_that_is_none(version: str, date: str) -> None:
    device, server = mac(), Server(order("update", version, date), activation("update"))
    server.synchronise(device)
    assert server.states["update"] == (False, "invalid", ["Error.ConfigurationIsInvalid"])
    assert device.update is None


def test_missing_declaration_is_removed() -> None:
    device, server = mac(), Server(declaration(TEST, "test", Echo="a"), activation("test"))
    server.synchronise(device)
    server.token, server.declarations["test"]["ServerToken"] = "2", "u"
    server.gone = {"test"}
    server.synchronise(device)
    assert server.states == {"activation": (False, "invalid", ["Error.MissingConfigurations"])}


# What a server may do wrong.


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (None, NOT_WHOLE),
        ([], NOT_WHOLE),
        ({"Echo": "a" * 1_100_000}, NOT_WHOLE),
        ({"Echo": [[[]]] * 2}, WRONG),
        ({"Echo": json.loads("[" * 40 + "]" * 40)}, NOT_WHOLE),
    ],
)
def test_payload_that_no_mac_can_take(payload: Any, code: str) -> None:
    test = {**declaration(TEST, "test"), "Payload": payload}
    device, server = mac(), Server(test, activation("test"))
    server.synchronise(device)
    assert server.states["test"] == (False, "invalid", [code])


def test_payloads_are_bounded_together() -> None:
    large = [declaration(TEST, f"{number}", Echo=" " * 1_000_000) for number in range(17)]
    device, server = mac(), Server(*large)
    with pytest.raises(DeclarationsMalformed, match="together"):
        server.synchronise(device)
    assert device.declared == Declared()


def test_predicates_are_bounded_together() -> None:
    costly = f"@property(text) LIKE '*{'a' * 300}b'"
    names = [f"{number}" for number in range(9)]
    text = declaration("management.properties", "text", text="a" * 600)
    device, server = mac(), Server(text, *(activation(identifier=name, Predicate=costly) for name in names))
    server.synchronise(device)
    codes = [server.states[name][2] for name in names]
    assert codes[0] == ["Info.Predicate"]
    assert codes[-1] == ["Error.PredicateFailed"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TYPES = st.sampled_from(sorted(name for name in of_kind("declaration") if name.split(".")[2:]))


@given(st.lists(st.tuples(TYPES, JSON), max_size=5), st.sampled_from(["13.6", "26.2", "27.0"]))
@examples(30)
def test_any_payload_has_a_state(declarations: list[tuple[str, Any]], release: str) -> None:
    there = [
        {"Type": name, "Identifier": f"{number}", "ServerToken": "t", "Payload": payload}
        for number, (name, payload) in enumerate(declarations)
        if name.split(".")[2] in ("activation", "asset", "configuration", "management")
    ]
    device = mac(release)
    names = [each["Identifier"] for each in there]
    server = Server(*there, activation(*names))
    server.synchronise(device)
    assert set(server.states) == {*names, "activation"}
    assert problems(server.reports[-1], of_kind("protocol")["StatusReport"].request) == []


def test_record_of_before_is_read_and_fetched_again() -> None:
    device, enrollment = mac(), mac().enrollment
    older = DeviceRecord(declarations=b'{"a": "1"}', declarations_token="t")
    restore_device(device, msgspec.msgpack.encode(older))
    assert device.declared == Declared()
    device.enrollment = enrollment
    server = Server(activation())
    server.synchronise(device)
    again = mac()
    restore_device(again, device_record(device))
    assert again.declared == device.declared
