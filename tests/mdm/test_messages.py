"""Commands, results, access rights and check-in messages, each against the keys that Apple documents."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_mdm import broken_plists, dictionaries, integers, texts, values

from agent.errors import MisuseError
from agent.mdm import checkin
from agent.mdm.access_rights import ALL_RIGHTS, AccessRights, AccessRightsError, check_access_rights
from agent.mdm.commands import MAX_UUID_LENGTH, Command, CommandDropped, CommandMalformed, parse_command
from agent.mdm.results import ChainedError, Domain, Result, Status, acknowledged, failed, idle_body
from agent.plists import PlistError, dump_binary, dump_xml, load, load_dict

UDID = "5D3B0C1A-0000-4000-8000-000000000001"
TOPIC = "com.apple.mgmt.External.example"
EXAMPLES = Path(__file__).parents[2] / "fixtures" / "apple-examples"

# Commands

commands = st.fixed_dictionaries(
    {},
    optional={
        "CommandUUID": texts | integers,
        "Command": values | st.fixed_dictionaries({}, optional={"RequestType": texts | integers}),
    },
)


def uuid_of(octets: bytes) -> str:
    """The UUID that the Mac would answer with."""
    try:
        return parse_command(octets).uuid
    except CommandMalformed as error:
        return error.command_uuid


@given(broken_plists(commands) | commands.map(dump_xml) | commands.map(dump_binary))
def test_any_bytes_are_a_command_or_a_known_error(octets: bytes) -> None:
    with contextlib.suppress(CommandDropped, PlistError):
        assert 0 < len(uuid_of(octets)) <= MAX_UUID_LENGTH


@given(dictionaries, st.sampled_from([dump_xml, dump_binary]))
def test_a_command_is_read_with_all_its_keys(body: dict[str, Any], dump: Any) -> None:
    body["RequestType"] = "InstallProfile"
    octets = dump({"CommandUUID": "0001", "Command": body, "Other": 1})
    assert parse_command(octets) == Command("0001", "InstallProfile", body)


@pytest.mark.parametrize(
    ("example", "uuid", "request_type"),
    [
        ("lom-setup-request.plist", "0001_LOMSetupRequest", "LOMSetupRequest"),
        ("lom-device-request.plist", "0001_LOMDeviceRequest", "LOMDeviceRequest"),  # has no RequestType
    ],
)
def test_commands_of_apples_documentation_are_read(example: str, uuid: str, request_type: str) -> None:
    command = parse_command((EXAMPLES / example).read_bytes())
    assert (command.uuid, command.request_type) == (uuid, request_type)


@pytest.mark.parametrize("body", [{"RequestList": []}, {"RequestList": 5}])
def test_request_list_without_request_type_is_a_lom_device_request(body: dict[str, Any]) -> None:
    assert parse_command(dump_xml({"CommandUUID": "a", "Command": body})).request_type == "LOMDeviceRequest"


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ({}, "found none"),
        ({"CommandUUID": 5}, "found an integer"),
        ({"CommandUUID": b"a"}, "found data"),
        ({"CommandUUID": ""}, "found 0"),
        ({"CommandUUID": "a" * (MAX_UUID_LENGTH + 1)}, "found 257"),
    ],
)
def test_command_without_commanduuid_is_dropped(root: dict[str, Any], found: str) -> None:
    with pytest.raises(CommandDropped, match=found):
        parse_command(dump_xml({"Command": {"RequestType": "ProfileList"}, **root}))


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ({}, "Expected a dictionary for Command, found none"),
        ({"Command": "ProfileList"}, "Expected a dictionary for Command, found a string"),
        ({"Command": {}}, "Expected a string for RequestType, found none"),
        ({"Command": {"RequestType": 5}}, "Expected a string for RequestType, found an integer"),
        ({"Command": {"RequestType": 5, "RequestList": []}}, "found an integer"),
        ({"Command": {"RequestType": ""}}, "found an empty one"),
    ],
)
def test_invalid_command_with_commanduuid_can_be_answered(root: dict[str, Any], found: str) -> None:
    with pytest.raises(CommandMalformed, match=found) as caught:
        parse_command(dump_xml({"CommandUUID": "a" * MAX_UUID_LENGTH, **root}))
    assert caught.value.command_uuid == "a" * MAX_UUID_LENGTH


@pytest.mark.parametrize("octets", [b"", b"\n", b"{}", dump_xml([]), dump_xml("a"), b"<html></html>"])
def test_command_that_is_not_a_dictionary_raises_plist_error(octets: bytes) -> None:
    with pytest.raises(PlistError, match="command"):
        parse_command(octets)


# Results


@given(texts.filter(bool), st.sampled_from(Status), dictionaries)
def test_result_survives_a_round_trip(uuid: str, status: Status, answer: dict[str, Any]) -> None:
    report = load_dict(Result(status, answer).body(UDID, uuid))
    envelope = {"CommandUUID": uuid, "Status": status.value, "UDID": UDID}
    assert report == {**answer, **envelope}


@given(st.lists(st.builds(ChainedError, st.sampled_from(Domain), st.integers(0, 2**31), texts), min_size=1, max_size=4))
def test_an_error_chain_has_its_four_keys_and_its_order(errors: list[ChainedError]) -> None:
    report = load_dict(failed(*errors).body(UDID, "a"))
    assert report["Status"] == "Error"
    assert report["ErrorChain"] == [
        {
            "ErrorCode": error.code,
            "ErrorDomain": error.domain.value,
            "LocalizedDescription": error.description,
            "USEnglishDescription": error.description,
        }
        for error in errors
    ]


def test_only_failed_results_have_an_error_chain() -> None:
    assert "ErrorChain" not in load_dict(acknowledged({"A": 1}).body(UDID, "a"))
    assert "ErrorChain" not in load_dict(Result(Status.NOT_NOW).body(UDID, "a"))


def test_idle_is_status_and_udid_only() -> None:
    assert load(idle_body(UDID)) == {"Status": "Idle", "UDID": UDID}


@given(st.text(max_size=20))
def test_idle_equals_its_generic_plist(udid: str) -> None:
    try:
        expected = dump_xml({"Status": "Idle", "UDID": udid})
    except MisuseError:
        with pytest.raises(MisuseError):
            idle_body(udid)
    else:
        assert idle_body(udid) == expected


def test_statuses_and_domains_are_spelled_as_in_apples_reference() -> None:
    assert {status.value for status in Status} == {"Idle", "Acknowledged", "Error", "CommandFormatError", "NotNow"}
    assert {domain.value for domain in Domain} == {
        "MCMDMErrorDomain",
        "MCProfileErrorDomain",
        "MCInstallationErrorDomain",
        "MCCertificateErrorDomain",
        "MCSCEPErrorDomain",
        "MDMClientError",
    }


# Access rights. Source: apple-schema profiles/com.apple.mdm.yaml, AccessRights.

RIGHTS = {
    1: "inspection of installed configuration profiles",
    2: "installation and removal of configuration profiles",
    4: "device lock and passcode removal",
    8: "device erase",
    16: "query of device information",
    32: "query of network information",
    64: "inspection of installed provisioning profiles",
    128: "installation and removal of provisioning profiles",
    256: "inspection of installed applications",
    512: "restriction-related queries",
    1024: "security-related queries",
    2048: "manipulation of settings",
    4096: "app management",
}


def test_access_rights_equal_those_of_the_schema() -> None:
    assert {int(right) for right in AccessRights} == set(RIGHTS)
    assert sum(RIGHTS) == ALL_RIGHTS
    assert AccessRights.LOCK_DEVICE == 4  # every LOM command: apple-schema commands/lom.*.yaml


@given(st.integers(-10, 10_000) | integers)
def test_access_rights_value_follows_the_schema(value: int) -> None:
    allowed = 0 < value <= 8191 and not (value & 2 and not value & 1) and not (value & 128 and not value & 64)
    if allowed:
        assert check_access_rights(value) == value
    else:
        with pytest.raises(AccessRightsError, match=str(value)):
            check_access_rights(value)


# Check-in messages. The required keys are those of a Mac's device channel: keys that the schema requires of the user
# channel (NotOnConsole, UserLongName, EnrollmentUserID) or of user enrollment (EnrollmentID) only are not sent.

ANNOUNCEMENT = checkin.Announcement(
    udid=UDID,
    device_name="Mac 1",
    model="Mac14,3",
    model_name="Mac mini",
    os_version="14.5",
    build_version="23F79",
    serial_number="ZX0000000001",
)
CHECK_INS: list[tuple[dict[str, Any], dict[str, type]]] = [
    (
        checkin.authenticate(ANNOUNCEMENT, TOPIC),  # apple-schema checkin/authenticate.yaml
        {"MessageType": str, "Topic": str, "UDID": str, "DeviceName": str, "Model": str, "ModelName": str}
        | {"OSVersion": str, "BuildVersion": str, "ProductName": str, "SerialNumber": str},
    ),
    (
        checkin.token_update(UDID, TOPIC, bytes(32), "magic"),  # apple-schema checkin/tokenupdate.yaml
        {"MessageType": str, "Topic": str, "UDID": str, "Token": bytes, "PushMagic": str}
        | {"AwaitingConfiguration": bool},
    ),
    (
        checkin.check_out(UDID, TOPIC),  # apple-schema checkin/checkout.yaml
        {"MessageType": str, "Topic": str, "UDID": str},
    ),
    (
        checkin.set_bootstrap_token(UDID, TOPIC, b"token"),  # apple-schema checkin/setbootstraptoken.yaml
        {"MessageType": str, "Topic": str, "UDID": str, "BootstrapToken": bytes, "AwaitingConfiguration": bool},
    ),
    (
        checkin.declarative_management(UDID, "status", b"{}"),  # apple-schema checkin/declarativemanagement.yaml
        {"MessageType": str, "UDID": str, "Endpoint": str, "Data": bytes},
    ),
]


@pytest.mark.parametrize(("message", "keys"), CHECK_INS, ids=[message["MessageType"] for message, _ in CHECK_INS])
def test_a_check_in_has_every_required_key_of_its_type(message: dict[str, Any], keys: dict[str, type]) -> None:
    assert {key: type(value) for key, value in load_dict(dump_xml(message)).items()} == keys


def test_message_types_are_spelled_as_in_the_schema() -> None:
    assert [message["MessageType"] for message, _ in CHECK_INS] == [
        "Authenticate",
        "TokenUpdate",
        "CheckOut",
        "SetBootstrapToken",
        "DeclarativeManagement",
    ]


def test_check_in_has_the_macs_identifiers() -> None:
    message = checkin.authenticate(ANNOUNCEMENT, TOPIC)
    assert (message["UDID"], message["Topic"], message["SerialNumber"]) == (UDID, TOPIC, "ZX0000000001")
    assert (message["Model"], message["ProductName"], message["ModelName"]) == ("Mac14,3", "Mac14,3", "Mac mini")
    update = checkin.token_update(UDID, TOPIC, b"t" * 32, "magic")
    assert (update["UDID"], update["Topic"], update["Token"], update["PushMagic"]) == (UDID, TOPIC, b"t" * 32, "magic")


def test_declaration_request_has_no_data() -> None:
    assert "Data" not in checkin.declarative_management(UDID, "tokens", None)


def test_check_in_content_type_is_apples() -> None:
    assert checkin.CONTENT_TYPE == "application/x-apple-aspen-mdm-checkin"
    assert checkin.USER_AGENT == "MDM-OSX/1.0 mdmclient/1543"


def test_mdmclient_has_a_greater_version_in_each_later_release() -> None:
    releases = ["13.6", "14.4", "14.5", "15.0", "15.5", "26.0", "26.6", "27.0", "28.1"]
    agents = [checkin.user_agent(release) for release in releases]
    assert agents[3] == checkin.USER_AGENT
    assert [int(agent.removeprefix("MDM-OSX/1.0 mdmclient/")) for agent in agents] == sorted(
        {int(agent.rpartition("/")[2]) for agent in agents}
    )
