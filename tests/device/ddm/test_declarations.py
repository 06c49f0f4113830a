"""Declarations without a network: what is valid on which release, what takes effect, and what is reported."""

from __future__ import annotations

import hashlib
import json
import plistlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from apple_schema import problems
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from issued_once import IssuedOnce

from agent.device.answering import OfflineMac
from agent.device.ddm.declared import Declaration, Declared, as_json
from agent.device.ddm.status import capabilities, status_value, supported_items
from agent.device.ddm.synchronising import FULL_REPORT_SECONDS, DeclarationsMalformed, is_changed, refresh, synchronise
from agent.device.ddm.validation import asset_references, faults_of
from agent.device.mac import Device
from agent.device.steps import CheckIn, Done, Download, DownloadByMDM, Steps, advance
from agent.device.stored.record import device_record, restore_device
from agent.device.stored.types import DeviceRecord
from agent.device.users.channel import Account, UserDevice
from agent.errors import PeerError
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.mdm.facts import of_kind
from agent.mdm.refusals import ServerRefused
from agent.mdm.session import Session

NOON = 1_800_000_000.0
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
        ("configuration.content-cache.settings", {"anything": 1}, "27.0", ""),  # the table lacks its keys
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


def test_date_that_is_none() -> None:
    device, server = mac(), Server(order("update", "27.0", "tomorrow"), activation("update"))
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
