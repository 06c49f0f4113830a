"""What a Mac says to every command of Apple's schema, and in every check-in: on each release, channel and LOM state.

The commands, their bodies and the answers' keys are those of the table of facts, so Apple's next release is tested as
soon as the table has it. Releases between which the schema of commands differs are walked, one of each kind.
"""

from __future__ import annotations

import plistlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest
from apple_schema import problems
from issued_once import IssuedOnce
from msgspec import structs
from msgspec.structs import replace
from schema_bodies import bodies

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.ddm.synchronising import synchronise
from agent.device.facts.information import QUERIES
from agent.device.facts.supported import DEVICE_CHANNEL, USER_CHANNEL
from agent.device.installing.profiles import check_out_steps, resumed_enrollment_steps
from agent.device.mac import Device, Settings, UnfinishedEnrollment
from agent.device.security.filevault import recovery_key
from agent.device.steps import CheckIn, Done, ReadDate, RelayItems, advance
from agent.device.system import MANAGED, App, FileVault, FirmwarePassword, ProvisioningProfile, SystemState, User
from agent.device.users.accounts import users_of
from agent.device.users.channel import Account, UserDevice, log_in_steps
from agent.errors import PeerError
from agent.fleet.models import RELEASES
from agent.fleet.population import Population
from agent.lom.endpoint import LOMConfiguration
from agent.lom.requests import Dialect, RelayOutcome
from agent.mdm.commands import Command
from agent.mdm.facts import Fact, Key, of_kind, version
from agent.mdm.results import Result, Status
from agent.mdm.session import Session
from agent.pki.issuing.authority import LOM_USAGE
from agent.profiles.enrollment import BOOTSTRAP_CAPABILITY, PER_USER_CAPABILITY, TOKEN_CAPABILITY
from agent.profiles.store import InstalledProfile, ProfileStore

CHANNELS = (DEVICE_CHANNEL, USER_CHANNEL)
LOM_STATES = ("none", "device", "controller", "both")
MODELS = {"intel": "MacPro7,1", "apple-silicon": "Macmini9,1"}
AUTHORITIES = IssuedOnce.create("LOM Devices"), IssuedOnce.create("LOM Controllers")
IDENTITY = AUTHORITIES[0].issue("mac.lom.test", LOM_USAGE, names=["mac.lom.test"])
NOW = 1.8e9

# Commands of one kind of Mac, and those that this setup has no body for that a Mac accepts.
ONLY_ON = {
    "SetFirmwarePassword": "intel",
    "VerifyFirmwarePassword": "intel",
    "SetRecoveryLock": "apple-silicon",
    "VerifyRecoveryLock": "apple-silicon",
}
ABOUT_USERS = ("NotOnConsole", "UserID", "UserLongName", "UserShortName")  # of every message on the user channel
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

    def reset(self, request_type: str, *, automated: bool) -> Device:
        """The Mac as at first, on the device channel.

        A command that sets or checks a password finds none, or that which the body has.
        """
        device = self.device
        device.profiles = ProfileStore.of(self._installed, self._lom)
        awaiting = request_type == "AccountConfiguration" and automated
        device.settings = Settings(awaiting_configuration=awaiting, automated=automated)
        device.system = self._system
        if request_type == "SetFirmwarePassword":
            device.system = replace(device.system, firmware=FirmwarePassword())
        if request_type == "VerifyRecoveryLock":
            device.system = replace(device.system, recovery_lock="text")
        device.update = None
        device.take_follow_ups()
        device.user = None
        return device

    def on(self, channel: str) -> Device | UserDevice:
        """The Mac, or its user, who is logged in with an account of a directory service."""
        device = self.device
        if channel == DEVICE_CHANNEL:
            return device
        device.user = UserDevice(device, Account.of(device.mac, network=True), Session(device.mac.udid, lambda: 0.0))
        device.user.managed = True
        device.user.profiles = ProfileStore.of(self._installed, None)
        return device.user

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


def run(device: Device | UserDevice, request_type: str, body: dict[str, Any], channel: str = DEVICE_CHANNEL) -> Result:
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
    for key in ("CommandUUID", "UDID", *(ABOUT_USERS if channel == USER_CHANNEL else ())):
        answer.pop(key, None)
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


def walk(
    release: str, channel: str, lom: str, chip: str, *, automated: bool
) -> Iterator[tuple[str, Status | None, list[str]]]:
    """Each command with each of its bodies: the status of the answer, and what is wrong with it. Then each check-in."""
    walked = Walked(release, lom, chip)
    for request_type, described in of_kind("command").items():
        fact = described.fact
        supported = fact.is_in(release) and fact.is_on(channel) and (automated or fact.flag("requiresdep") is None)
        for body in bodies_of(request_type, release, channel, walked):
            device = walked.reset(request_type, automated=automated)
            mac = walked.on(channel)
            result = run(mac, request_type, body, channel)
            answer = plistlib.loads(mac.addressed(result.body(device.mac.udid, "uuid")))
            if not supported:
                chain = answer.get("ErrorChain", [{}])
                assert chain[0].get("ErrorCode") == 12021, (request_type, release, channel, answer)
            yield request_type, result.status, judged(answer, request_type, release, channel)
    walked.reset("", automated=automated)
    for sent in check_ins(walked.on(channel)):
        yield sent["MessageType"], None, checked_in(sent, release, channel)


def combinations() -> list[tuple[str, str, str, str, bool]]:
    """Each kind of release with each channel, LOM state and kind of enrollment, on each chip in turn."""
    found = []
    for number, (release, channel, lom) in enumerate(product(KINDS, CHANNELS, LOM_STATES)):
        chip = "apple-silicon" if version(release) >= version("27") else ("intel", "apple-silicon")[number % 2]
        found.append((release, channel, lom, chip, True))
        if lom == LOM_STATES[0] and channel == DEVICE_CHANNEL:  # on the user channel nothing depends on it
            found.append((release, channel, lom, chip, False))
    return found


def test_kinds_of_releases_are_those_between_which_the_schema_differs() -> None:
    assert {each.partition(".")[0] for each in KINDS} == {"13", "14", "15", "26", "27"}


@pytest.mark.parametrize("release", KINDS)
def test_every_answer_conforms_to_the_schema(release: str) -> None:
    done: dict[Status | None, set[tuple[str, str]]] = defaultdict(set)
    wrong: list[str] = []
    for _, channel, lom, chip, automated in (each for each in combinations() if each[0] == release):
        for name, status, found in walk(release, channel, lom, chip, automated=automated):
            wrong += [f"{name} on {release}, {channel}, {lom}, {chip}, {automated}: {each}" for each in found]
            done[status].add((name, channel))
    assert wrong == []
    for name, described in of_kind("command").items():
        for channel in CHANNELS:
            if described.fact.is_in(release) and described.fact.is_on(channel):
                assert (name, channel) in done[Status.ACKNOWLEDGED] or _cannot_be(name, release)
    assert {name for name, _ in done[None]} == {
        name for name, described in of_kind("check-in").items() if described.fact.is_in(release)
    }


def _cannot_be(request_type: str, release: str) -> bool:
    """Whether no Mac that was walked can acknowledge the command: it is for Intel, where macOS 27 does not run."""
    return ONLY_ON.get(request_type) == "intel" and version(release) >= version("27")


# The schema lists no keys that say which Mac it is; Macs send them, and servers need them.
WITHOUT_IDENTITY = ("GetBootstrapToken", "SetBootstrapToken")
CAPABILITIES = (BOOTSTRAP_CAPABILITY, PER_USER_CAPABILITY, TOKEN_CAPABILITY)
DIGEST = 'Digest realm="walk", nonce="1"'
TOKENS = b'{"SyncTokens": {"DeclarationsToken": "1"}}'
ITEMS = b'{"Declarations": {}, "DeclarationsToken": "1"}'


def check_ins(mac: Device | UserDevice) -> Iterator[dict[str, Any]]:
    """The check-ins of an enrollment or a login, of an update of the declarations, and of the end."""
    assert mac.enrollment is not None
    enrollment = structs.replace(mac.enrollment, capabilities=CAPABILITIES, check_out_when_removed=True)
    if isinstance(mac, UserDevice):
        mac.device.enrollment = enrollment
        begin, end = log_in_steps(mac), None
    else:
        begin = resumed_enrollment_steps(mac, UnfinishedEnrollment(enrollment, mac.profiles))
        end = check_out_steps(mac.mac.udid, enrollment)
    for steps in (begin, synchronise(mac, b"", lambda: NOW), end):
        need = Done(None) if steps is None else advance(steps, None)
        while not isinstance(need, Done):
            assert isinstance(need, CheckIn)
            name = need.message["MessageType"]
            yield {**need.message, **mac.check_in_keys(name)}
            need = advance(steps, _accepted(need.message))


def _accepted(message: Mapping[str, Any]) -> bytes:
    """A server's answer to a check-in."""
    if message["MessageType"] == "UserAuthenticate":
        return plistlib.dumps({"AuthToken": "token"} if "DigestResponse" in message else {"DigestChallenge": DIGEST})
    return {"tokens": TOKENS, "declaration-items": ITEMS}.get(message.get("Endpoint", ""), b"")


def checked_in(sent: dict[str, Any], release: str, channel: str) -> list[str]:
    """What is wrong with a check-in. A login has messages of the device channel, too."""
    name = sent["MessageType"]
    described = of_kind("check-in")[name]
    if not described.fact.is_in(release):
        return [f"macOS {release} has no {name}"]
    channel = channel if described.fact.is_on(channel) else DEVICE_CHANNEL
    ignored = {"Topic", "UDID"} if name in WITHOUT_IDENTITY else set()
    if channel == USER_CHANNEL:  # of a network user, by the schema's text of UserAuthenticate; it lists no key for it
        ignored.add("AuthToken")
    found = problems(
        {key: value for key, value in sent.items() if key not in ignored},
        described.request,
        release=release,
        channel=channel,
    )
    if name == "UserAuthenticate" and "DigestResponse" not in sent:  # the first of two requests, by Apple's notes
        found.remove("DigestResponse is required and absent")
    return found


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"UserID": 1}, "UserID should be <string>, but is int"),
        ({"AwaitingConfiguration": True}, "AwaitingConfiguration is not in the schema"),  # of the device channel
        ({"NotOnConsole": None}, "NotOnConsole should be <boolean>, but is NoneType"),
        ({"Unknown": 1}, "Unknown is not in the schema"),
    ],
)
def test_the_walk_finds_a_wrong_check_in(wrong: dict[str, Any], says: str) -> None:
    walked = Walked("26.4", "none", "apple-silicon")
    sent = next(each for each in check_ins(walked.on(USER_CHANNEL)) if each["MessageType"] == "TokenUpdate")
    assert checked_in(sent, "26.4", USER_CHANNEL) == []
    assert checked_in({**sent, **wrong}, "26.4", USER_CHANNEL) == [says]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"UserList": None}, "Users is required and absent"),
        ({"CommandUUID": ""}, "CommandUUID is ''"),
        ({"Users": [{"UserName": 1}]}, "Users[].UserName should be <string>, but is int"),
    ],
)
def test_the_walk_finds_a_wrong_answer(wrong: dict[str, Any], says: str) -> None:
    device = Walked("26.4", "none", "apple-silicon").reset("UserList", automated=False)
    answer = plistlib.loads(run(device, "UserList", {}).body(device.mac.udid, "uuid"))
    assert judged(dict(answer), "UserList", "26.4", DEVICE_CHANNEL) == []
    changed = {**answer, **wrong}
    if "UserList" in wrong:
        changed = {key: value for key, value in answer.items() if key != "Users"}
    assert says in judged(changed, "UserList", "26.4", DEVICE_CHANNEL)
