"""What a Mac says to every command of Apple's schema, on each release, channel and LOM state; and its check-ins.

The commands, their bodies and the answers' keys are those of the table of facts, so Apple's next release is tested as
soon as the table has it. Releases between which the schema of commands differs are walked, one of each kind.
"""

from __future__ import annotations

import inspect
import plistlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from apple_schema import problems
from msgspec.structs import replace
from schema_bodies import bodies

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.facts.information import QUERIES
from agent.device.facts.supported import DEVICE_CHANNEL, USER_CHANNEL
from agent.device.mac import Device, Settings
from agent.device.security.filevault import recovery_key
from agent.device.steps import Done, ReadDate, RelayItems, advance
from agent.device.system import MANAGED, App, FileVault, FirmwarePassword, ProvisioningProfile, SystemState, User
from agent.device.users.accounts import users_of
from agent.errors import PeerError
from agent.fleet.models import RELEASES
from agent.fleet.population import Population
from agent.lom.endpoint import LOMConfiguration
from agent.lom.requests import Dialect, RelayOutcome
from agent.mdm import checkin
from agent.mdm.commands import Command
from agent.mdm.facts import Fact, Key, of_kind, version
from agent.mdm.results import Result, Status
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.profiles.store import InstalledProfile, ProfileStore

CHANNELS = (DEVICE_CHANNEL, USER_CHANNEL)
LOM_STATES = ("none", "device", "controller", "both")
MODELS = {"intel": "MacPro7,1", "apple-silicon": "Macmini9,1"}
AUTHORITIES = Authority.create("LOM Devices"), Authority.create("LOM Controllers")
IDENTITY = AUTHORITIES[0].issue("mac.lom.test", LOM_USAGE, names=["mac.lom.test"])
NOW = 1.8e9

# Commands of one kind of Mac, and those that this setup has no body for that a Mac accepts.
ONLY_ON = {
    "SetFirmwarePassword": "intel",
    "VerifyFirmwarePassword": "intel",
    "SetRecoveryLock": "apple-silicon",
    "VerifyRecoveryLock": "apple-silicon",
}
NEEDS_LOM = {"LOMSetupRequest": ("device", "both"), "LOMDeviceRequest": ("controller", "both")}


def _all_facts(keys: Iterator[Key]) -> Iterator[Fact]:
    for key in keys:
        yield key.fact
        yield from _all_facts(iter(key.keys.values()))


def _kinds_of_releases() -> list[str]:
    """The last release of the fleet of each kind: with the same facts of commands and check-ins."""
    facts = [
        fact
        for kind in ("command", "check-in")
        for each in of_kind(kind).values()
        for fact in (each.fact, *_all_facts(iter((*each.request.values(), *each.response.values()))))
    ]
    kinds = {tuple(fact.is_in(each.version) for fact in facts): each.version for each in RELEASES}
    return list(kinds.values())


KINDS = _kinds_of_releases()


class Walked:
    """A Mac that each command meets in the same state."""

    def __init__(self, release: str, lom: str, chip: str) -> None:
        mac = Population("walk", 1, os=release, model=MODELS[chip])[0]
        self.device = OfflineMac(mac, *AUTHORITIES, Dialect.SCHEMA).device
        device = self.device
        device.profiles.lom = {
            "none": None,
            "device": LOMConfiguration(device_identity=IDENTITY),
            "controller": LOMConfiguration(controller_identity=IDENTITY),
            "both": LOMConfiguration(device_identity=IDENTITY, controller_identity=IDENTITY),
        }[lom]
        assert run(device, "InstallProfile", next(bodies("InstallProfile", release, DEVICE_CHANNEL, {})))
        self._installed: list[InstalledProfile] = list(device.profiles)
        self._lom = device.profiles.lom
        second = User(name="second", full_name="Second", uid=502, guid="2", automatic=True)
        self._system = SystemState(
            users=(*users_of(device), second),
            apps=(App(identifier="com.example.app", status=MANAGED, managed=True, name="App", version="2.1"),),
            provisioning=(ProvisioningProfile(uuid="first", name="First", expires=2e9),),
            filevault=FileVault(),
            firmware=FirmwarePassword(password="text") if chip == "intel" else FirmwarePassword(),
        )

    def reset(self, request_type: str) -> Device:
        """The Mac as at first. A command that sets or checks a password finds none, or that which the body has."""
        device = self.device
        device.profiles = ProfileStore.of(self._installed, self._lom)
        device.settings = Settings(awaiting_configuration=request_type == "AccountConfiguration")
        device.system = self._system
        if request_type == "SetFirmwarePassword":
            device.system = replace(device.system, firmware=FirmwarePassword())
        if request_type == "VerifyRecoveryLock":
            device.system = replace(device.system, recovery_lock="text")
        device.update = None
        device.take_follow_ups()
        return device

    def given(self, request_type: str) -> dict[str, Any]:
        """Values of keys that only this Mac knows."""
        app = "com.example.profile" if request_type == "RemoveProfile" else "com.example.app"
        if request_type == "InstallApplication":
            app = "com.example.other"
        return {
            "FileVaultUnlock": {"Password": recovery_key(self.device, FileVault())},
            "Identifier": app,
            "IdentifiersItem": app,
            "ProductVersion": "26.0",
        }


def run(device: Device, request_type: str, body: dict[str, Any], channel: str = DEVICE_CHANNEL) -> Result:
    """Carry out a command. No server and no other Mac is reachable."""
    outcome = carry_out(device, Command("uuid", request_type, {"RequestType": request_type, **body}, channel))
    if isinstance(outcome, Result):
        return outcome
    end = advance(outcome, None)
    while not isinstance(end, Done):
        match end:
            case ReadDate():
                answer: object = NOW
            case RelayItems(items):
                answer = [RelayOutcome(item.uuid, "there is no network here") for item in items]
            case _:
                answer = PeerError("there is no network here")
        end = advance(outcome, answer)
    return end.value


def judged(answer: dict[str, Any], request_type: str, release: str, channel: str) -> list[str]:
    """What is wrong with an answer, as the server gets it."""
    wrong = [f"{key} is {answer.pop(key, None)!r}" for key in ("CommandUUID", "UDID") if not answer.get(key)]
    answer.pop("CommandUUID", None), answer.pop("UDID", None)
    status = answer.pop("Status", None)
    if status == "Error":
        wrong += [f"{error} is not an error" for error in answer.pop("ErrorChain", [None]) if not _is_error(error)]
    if status != "Acknowledged":
        return wrong + [f"{status} with {key}" for key in answer]
    keys = dict(of_kind("command")[request_type].response)
    if request_type == "Settings":  # the schema's text calls it a dictionary; devices send an array of dictionaries
        known = {**keys.pop("Settings").keys, "Item": Key(Fact("command", "Settings", "response", "Item", "string"))}
        for item in answer.pop("Settings"):
            wrong += problems(item, known, release=release, channel=channel)
    return wrong + problems(answer, keys, release=release, channel=channel)


def _is_error(error: Any) -> bool:
    return (
        isinstance(error, dict)
        and isinstance(error.get("ErrorCode"), int)
        and all(isinstance(error.get(key), str) for key in ("ErrorDomain", "LocalizedDescription"))
    )


def bodies_of(request_type: str, release: str, channel: str, walked: Walked) -> Iterator[dict[str, Any]]:
    """The bodies of the schema; the settings one after another, and every query at once."""
    if request_type == "Settings":
        for name, item in of_kind("command")["Settings"].request["Settings"].keys.items():
            values = {key: _setting(each) for key, each in item.keys.items()}
            yield {"Settings": [{**values, "Item": name}]}
    elif request_type == "DeviceInformation":
        yield {"Queries": [*QUERIES, *of_kind("command")[request_type].request["Queries"].keys["QueriesItem"].keys]}
    else:
        yield from bodies(request_type, release, channel, walked.given(request_type))


def _setting(key: Key) -> Any:
    match key.fact.type:
        case "dictionary":
            return {name: _setting(each) for name, each in key.keys.items() if name != "ANY"}
        case "boolean":
            return True
    return "com.example.app" if key.name == "Identifier" else "Rack 7"


def walk(release: str, channel: str, lom: str, chip: str) -> Iterator[tuple[str, Status, list[str]]]:
    """Each command with each of its bodies: the status of the answer, and what is wrong with it."""
    walked = Walked(release, lom, chip)
    for request_type, described in of_kind("command").items():
        supported = described.fact.is_in(release) and described.fact.is_on(channel)
        for body in bodies_of(request_type, release, channel, walked):
            device = walked.reset(request_type)
            result = run(device, request_type, body, channel)
            answer = plistlib.loads(result.body(device.mac.udid, "uuid"))
            if not supported:
                chain = answer.get("ErrorChain", [{}])
                assert chain[0].get("ErrorCode") == 12021, (request_type, release, channel, answer)
            yield request_type, result.status, judged(answer, request_type, release, channel)


def combinations() -> list[tuple[str, str, str, str]]:
    """Each kind of release with each channel and LOM state, on each chip in turn."""
    found = []
    for number, (release, channel, lom) in enumerate(product(KINDS, CHANNELS, LOM_STATES)):
        chip = "apple-silicon" if version(release) >= version("27") else ("intel", "apple-silicon")[number % 2]
        found.append((release, channel, lom, chip))
    return found


def test_kinds_of_releases_are_those_between_which_the_schema_differs() -> None:
    assert {each.partition(".")[0] for each in KINDS} == {"13", "14", "15", "26", "27"}


@pytest.mark.parametrize("release", KINDS)
def test_every_answer_conforms_to_the_schema(release: str) -> None:
    acknowledged: set[tuple[str, str]] = set()
    wrong: list[str] = []
    for _, channel, lom, chip in (each for each in combinations() if each[0] == release):
        for request_type, status, found in walk(release, channel, lom, chip):
            wrong += [f"{request_type} on {release}, {channel}, {lom}, {chip}: {each}" for each in found]
            if status is Status.ACKNOWLEDGED:
                acknowledged.add((request_type, channel))
    assert wrong == []
    for request_type, described in of_kind("command").items():
        if described.fact.is_in(release):
            for channel in (each for each in CHANNELS if described.fact.is_on(each)):
                assert (request_type, channel) in acknowledged or _cannot_be(request_type, release)


def _cannot_be(request_type: str, release: str) -> bool:
    """Whether no Mac that was walked can acknowledge the command: it is for Intel, where macOS 27 does not run."""
    return ONLY_ON.get(request_type) == "intel" and version(release) >= version("27")


# The schema lists no keys that say which Mac it is; Macs send them, and servers need them.
WITHOUT_IDENTITY = ("GetBootstrapToken", "SetBootstrapToken")
SAMPLES: dict[str, Any] = {
    "announcement": checkin.Announcement("UDID", "name", "Mac16,10", "Mac mini", "27.0", "26A428", "SERIAL"),
    "bytes": b"token",
    "endpoint": "status",
    "report": b"{}",
    "service": "com.apple.maid",
    "token": b"token",
}


def _check_ins() -> dict[str, dict[str, Any]]:
    """The messages that the module of check-ins makes, by type."""
    made = {}
    for name, function in inspect.getmembers(checkin, inspect.isfunction):
        signature = inspect.signature(function)
        if (
            function.__module__ == checkin.__name__
            and not name.startswith("_")
            and "dict" in signature.return_annotation
        ):
            needed = [each for each in signature.parameters.values() if each.default is each.empty]
            message = function(**{each.name: SAMPLES.get(each.name, each.name) for each in needed})
            if "MessageType" in message:
                made[message["MessageType"]] = message
    return made


def test_every_check_in_conforms_to_the_schema() -> None:
    made = _check_ins()
    assert {"Authenticate", "TokenUpdate", "CheckOut", "DeclarativeManagement", "SetBootstrapToken"} <= set(made)
    for name, message in made.items():
        described = of_kind("check-in")[name]
        if name in WITHOUT_IDENTITY:
            message = {key: value for key, value in message.items() if key not in ("Topic", "UDID")}
        if name == "UserAuthenticate":  # the first of the two requests lacks it, by Apple's notes
            assert problems(message, described.request, channel=USER_CHANNEL) == [
                "DigestResponse is required and absent"
            ]
            message = checkin.user_authenticate(message["UDID"], message["UserID"], "Digest")
        channel = DEVICE_CHANNEL if described.fact.is_on(DEVICE_CHANNEL) else USER_CHANNEL
        for release in KINDS:
            if described.fact.is_in(release):
                known = {key: each for key, each in described.request.items() if each.fact.is_in(release)}
                assert problems(message, known, release=release, channel=channel) == [], (name, release)
