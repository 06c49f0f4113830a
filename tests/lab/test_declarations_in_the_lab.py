"""Declarative management of a Mac by the lab, over real sockets: what is active and valid, and what takes effect."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from conftest import RunInReactor
from stack import Stack, stack

from agent.fleet.durations import Constant
from agent.lab.mdm.declarations import Declarations
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.profiles.making import lom_profile

SOON = FleetBehaviour(boot=Constant(0.02), shutdown=Constant(0.02), update=Constant(0.05))


def declaration(kind: str, identifier: str, **payload: Any) -> dict[str, Any]:
    return {"Type": f"com.apple.{kind}", "Identifier": identifier, "Payload": payload}


def activation(identifier: str, *configurations: str, **more: Any) -> dict[str, Any]:
    return declaration("activation.simple", identifier, StandardConfigurations=list(configurations), **more)


class Declared:
    """The declarations of the only Mac of a stack, and what it reported of them."""

    def __init__(self, running: Stack) -> None:
        self._running = running
        self.client = running.fleet[0]
        self.assets: dict[str, bytes] = {}
        self.states: dict[str, tuple[bool, str, list[str]]] = {}
        self.items: dict[str, Any] = {}
        self.reports: list[dict[str, Any]] = []
        take = running.lab._declarative_management

        def see(mac: Any, message: Any) -> bytes:
            if message["Endpoint"] == "status":
                self._read(json.loads(message["Data"]))
            return take(mac, message)

        running.lab._declarative_management = see  # type: ignore[method-assign]

    def _read(self, report: dict[str, Any]) -> None:
        self.reports.append(report)
        merge(self.items, copy.deepcopy(report["StatusItems"]))
        for each in (one for part in self.items["management"]["declarations"].values() for one in part):
            codes = [reason["code"] for reason in each.get("reasons", [])]
            self.states[each["identifier"]] = each["active"], each["valid"], codes

    async def set(self, *declarations: dict[str, Any]) -> None:
        """Give the Mac these declarations, and wait until it has reported."""
        count = len(self.reports)
        self._running.lab.declarations = Declarations(declarations, assets=self.assets)
        await self._running.command(self.client, "DeclarativeManagement")
        await self.until(lambda: len(self.reports) > count and self.client.device.synchronising is None, "a report")

    async def until(self, happened: Any, what: str) -> None:
        await self._running.until(happened, what)

    def asset(self, name: str, data: bytes, **reference: Any) -> dict[str, Any]:
        self.assets[name] = data
        reference = {"DataURL": f"{self._running.server.url}/assets/{name}", "Size": len(data), **reference}
        return declaration("asset.data", name, Reference=reference, Authentication={"Type": "MDM"})


def merge(before: dict[str, Any], report: dict[str, Any]) -> None:
    for key, value in report.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict) and key != "declarations":
            merge(before[key], value)
        else:
            before[key] = value


ACTIVE = (True, "valid", [])
ECHOING = (True, "valid", ["hello"])  # the code of the reason of a test


def test_active_and_valid_and_everything_else(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            seen = Declared(running)
            data = b"echo of the asset"
            broken = seen.asset("broken", data, **{"Hash-SHA-256": "00" * 32})
            good = seen.asset("good", data, **{"Hash-SHA-256": hashlib.sha256(data).hexdigest()})
            gone = seen.asset("gone", data)
            del seen.assets["gone"]
            test = "configuration.management.test"
            family, older = "@status(device.model.family)", "@property(age) < 18"
            declarations = [
                activation("all", "plain", "by asset", "by broken", "by gone", "future", "typo", "asset missing"),
                activation("for Macs", "on a Mac", Predicate=f"{family} == 'Mac' AND NOT {older}"),
                activation("for the young", "for the young only", Predicate=older),
                activation("nonsense", "never", Predicate="this is not a predicate"),
                activation("incomplete", "never", "not there"),
                declaration(test, "plain", Echo="hello"),
                declaration(test, "on a Mac", Echo="hello"),
                declaration(test, "for the young only", Echo="hello"),
                declaration(test, "never", Echo="hello"),
                declaration(test, "unused", Echo="hello"),
                declaration(test, "typo", Echo="hello", Ecco="?"),
                declaration(test, "by asset", Echo="hello", EchoDataAssetReference="good"),
                declaration(test, "by broken", Echo="hello", EchoDataAssetReference="broken"),
                declaration(test, "by gone", Echo="hello", EchoDataAssetReference="gone"),
                declaration(test, "asset missing", Echo="hello", EchoDataAssetReference="no such"),
                declaration("configuration.of.the.future", "future"),
                declaration("management.properties", "properties", age=40),
                good,
                broken,
                gone,
            ]
            for each in declarations:  # identifiers have no spaces
                each["Identifier"] = each["Identifier"].replace(" ", "-")
                names = each["Payload"].get("StandardConfigurations", [])
                names[:] = [name.replace(" ", "-") for name in names]
                if "EchoDataAssetReference" in each["Payload"]:
                    each["Payload"]["EchoDataAssetReference"] = each["Payload"]["EchoDataAssetReference"].replace(
                        " ", "-"
                    )
            await seen.set(*declarations)
            assert seen.states == {
                "all": ACTIVE,
                "for-Macs": ACTIVE,
                "for-the-young": (False, "valid", ["Info.Predicate"]),
                "nonsense": (False, "invalid", ["Error.UnableToParsePredicate"]),
                "incomplete": (False, "invalid", ["Error.MissingConfigurations"]),
                "plain": ECHOING,
                "on-a-Mac": ECHOING,
                "for-the-young-only": (False, "unknown", []),
                "never": (False, "unknown", ["Error.ActivationFailed"]),
                "unused": (False, "unknown", ["Info.NotReferencedByActivation"]),
                "typo": (False, "invalid", ["Error.UnknownPayloadKeys"]),
                "by-asset": ECHOING,
                "by-broken": (False, "invalid", ["Error.ConfigurationCannotBeApplied"]),
                "by-gone": (False, "invalid", ["Error.ConfigurationCannotBeApplied"]),
                "asset-missing": (False, "invalid", ["Error.MissingAssets"]),
                "future": (False, "invalid", ["Error.UnknownDeclarationType"]),
                "properties": ACTIVE,
                "good": ACTIVE,
                "broken": (False, "invalid", ["Error.AssetCannotBeVerified"]),
                "gone": (False, "invalid", ["Error.AssetCannotBeDownloaded"]),
            }
            # A property of the server turns two predicates.
            declarations[16]["Payload"]["age"] = 4
            await seen.set(*declarations)
            assert seen.states["for-the-young-only"] == ECHOING
            assert seen.states["on-a-Mac"][0] is False

    run_in_reactor(scenario())


def test_legacy_profile_is_there_as_long_as_its_declaration(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            seen = Declared(running)
            name = seen.client.device.mac.dns_name
            profile = lom_profile(running.server.authorities, name, device=True, controller=False)
            seen.assets["profile"] = profile

            async def listed() -> list[str]:
                profiles = (await running.command(seen.client, "ProfileList"))["ProfileList"]
                return [
                    each["PayloadIdentifier"]
                    for each in profiles
                    if each.get("Source") == "Declarative Device Management"
                ]

            url = f"{running.server.url}/assets/profile"
            legacy = declaration("configuration.legacy", "legacy", ProfileURL=url)
            subscription = declaration(
                "configuration.management.status-subscriptions",
                "subscription",
                StatusItems=[{"Name": "security.certificate.list"}, {"Name": "no.such"}],
            )
            await seen.set(legacy, subscription, activation("all", "legacy", "subscription"))
            assert seen.states["legacy"] == ACTIVE
            (identifier,) = await listed()
            refused = await running.command(seen.client, "RemoveProfile", Identifier=identifier)
            assert [error["ErrorCode"] for error in refused["ErrorChain"]] == [12013]
            assert seen.client.lom is not None
            certificates = (await running.command(seen.client, "CertificateList"))["CertificateList"]
            assert name not in [each["CommonName"] for each in certificates]  # of the LOM identity: in the status
            before = {each["identifier"] for each in seen.items["security"]["certificate"]["list"]}
            (error,) = seen.reports[-1]["Errors"]
            assert error["StatusItem"] == "no.such"
            await seen.set(subscription, activation("all", "subscription"))
            assert await listed() == []
            assert seen.client.lom is None
            changes = seen.reports[-1]["StatusItems"]["security"]["certificate"]["list"]
            assert changes
            assert all(set(each) == {"identifier", "_removed"} and each["identifier"] in before for each in changes)
            assert seen.reports[-1]["Errors"] == []  # reported once

    run_in_reactor(scenario())


def test_enforced_update_raises_the_release_and_turns_a_predicate(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=SOON) as running:
            seen = Declared(running)
            mac = seen.client.device.mac
            names = [
                "softwareupdate.install-state",
                "device.operating-system.version",
                "softwareupdate.pending-version",
            ]
            await seen.set(
                declaration(
                    "configuration.softwareupdate.enforcement.specific",
                    "update",
                    TargetOSVersion="99.1",
                    TargetBuildVersion="99B1",
                    TargetLocalDateTime="2020-01-01T00:00:00",
                ),
                declaration(
                    "configuration.management.status-subscriptions",
                    "subscription",
                    StatusItems=[{"Name": name} for name in names],
                ),
                declaration("configuration.management.test", "afterwards", Echo="hello"),
                activation("all", "update", "subscription"),
                activation(
                    "updated", "afterwards", Predicate="@status(device.operating-system.version) BEGINSWITH '99'"
                ),
            )
            assert seen.states["update"] == ACTIVE
            assert seen.items["device"]["operating-system"]["version"] == mac.os_version
            assert seen.items["softwareupdate"]["pending-version"]["os-version"] == "99.1"
            await seen.until(
                lambda: seen.items["device"]["operating-system"]["version"] == "99.1", "the update is reported"
            )
            await seen.until(lambda: seen.states["afterwards"] == ECHOING, "the predicate turns")
            assert seen.client.boots == 1
            assert seen.items["softwareupdate"]["install-state"] == "none"
            states = [
                report["StatusItems"]["softwareupdate"]["install-state"]
                for report in seen.reports
                if "install-state" in report["StatusItems"].get("softwareupdate", {})
            ]
            assert states[0] == "downloading"
            assert not any("FullReport" in report for report in seen.reports)
            queries = ["OSVersion", "BuildVersion"]
            answer = await running.command(seen.client, "DeviceInformation", Queries=queries)
            assert answer["QueryResponses"] == {"OSVersion": "99.1", "BuildVersion": "99B1"}

    run_in_reactor(scenario())


def test_declaration_that_is_gone_is_removed(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            seen = Declared(running)
            test = declaration("configuration.management.test", "test", Echo="hello")
            await seen.set(test, activation("all", "test"))
            assert seen.states["test"] == ECHOING
            listed = {**test, "Payload": {"Echo": "another"}}
            count = len(seen.reports)
            running.lab.declarations = Declarations((listed, activation("all", "test")))
            del running.lab.declarations._declarations["configuration", "test"]  # 404, although it is listed
            items = running.lab.declarations._items
            token = {"Identifier": "test", "ServerToken": "another"}
            running.lab.declarations._items = lambda: {**items(), "Configurations": [token]}  # type: ignore[method-assign]
            await running.command(seen.client, "DeclarativeManagement")
            await seen.until(lambda: len(seen.reports) > count, "a report")
            assert [each.identifier for each in seen.client.device.declared.declarations] == ["all"]
            assert seen.states["all"] == (False, "invalid", ["Error.MissingConfigurations"])

    run_in_reactor(scenario())


def test_idle_mac_sends_its_full_report_when_it_is_due(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            seen = Declared(running)
            await seen.set(
                declaration("configuration.management.test", "test", Echo="hello"), activation("all", "test")
            )
            alarm = seen.client._upkeep_alarm
            assert alarm is not None
            seen.client.device.declared.full_report_at = 1.0
            seen.client._parts.connection.hang_up()
            await seen.until(seen.client.make_idle, "the Mac is idle")
            assert alarm.is_set
            alarm.set(0.0)
            await seen.until(lambda: "FullReport" in seen.reports[-1], "a full report")
            assert set(seen.reports[-1]["StatusItems"]["management"]) == {"client-capabilities", "declarations"}

    run_in_reactor(scenario())


def test_a_jump_of_the_clock_over_some_days_has_one_full_report(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            seen = Declared(running)
            await seen.set(declaration("configuration.management.test", "test", Echo="hello"))
            parts = seen.client._parts
            for _ in range(5):  # the alarm goes off for each retry in the jump, before a report can be sent
                parts.device.declared.full_report_at = 1.0
                parts.upkeep.due()
            await seen.until(lambda: parts.background.quiet, "the Mac has reported")
            assert ["FullReport" in report for report in seen.reports] == [False, True]

    run_in_reactor(scenario())


def test_update_of_declarations_that_a_crash_ends_goes_on_after_the_boot(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=SOON) as running:
            seen = Declared(running)
            answer = running.lab.declarations.answer

            def crash_once(endpoint: str) -> bytes | None:
                running.lab.declarations.answer = answer  # type: ignore[method-assign]
                seen.client.crash()
                return answer(endpoint)

            running.lab.declarations.answer = crash_once  # type: ignore[method-assign]
            running.lab.enqueue(running.udid(seen.client), {"RequestType": "DeclarativeManagement"})
            seen.client.wake()
            await seen.until(lambda: seen.states, "a report")
            assert seen.states["test.lom-agent.lab.configuration"] == (True, "valid", ["lom-agent lab"])
            assert seen.client.boots == 1
            await seen.until(lambda: seen.client.device.synchronising is None, "the update ends")

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        ("tokens", b'{"SyncTokens": {"DeclarationsToken": 1}}'),
        ("declaration-items", b'{"Declarations": {"Activations": [null]}}'),
        ("declaration/configuration/plain", b"[]"),
    ],
)
def test_an_answer_that_violates_the_protocol_fails_its_check_in(
    run_in_reactor: RunInReactor, endpoint: str, answer: bytes
) -> None:
    async def scenario() -> None:
        async with stack() as running:
            running.lab.declarations = Declarations((declaration("configuration.management.test", "plain", Echo="hi"),))
            take = running.lab._declarative_management

            def see(mac: Any, message: Any) -> bytes:
                return answer if message["Endpoint"] == endpoint else take(mac, message)

            running.lab._declarative_management = see  # type: ignore[method-assign]
            await running.command(running.fleet[0], "DeclarativeManagement")
            await running.until(lambda: bool(running.failures("checkin")), "a failure")
            assert running.failures("checkin") == ["declarations"]
            (failed,) = (each for each in running.exchanges if each.failure is not None)
            assert failed.facts["endpoint"] == endpoint

    run_in_reactor(scenario())
