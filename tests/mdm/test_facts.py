"""The table of facts from Apple's schema: how it is written, read and looked up."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.mdm.facts import COLUMNS, KINDS, Fact, message, messages, of_kind, read_facts, version, write_facts

MAKE_FACTS = Path(__file__).parents[2] / "fixtures" / "make_facts.py"

YAML = """
title: Blink
payload:
  requesttype: Blink
  supportedOS:
    iOS: {introduced: n/a}
    macOS:
      introduced: '14.0'
      accessrights: AllowSettings
      devicechannel: true
      userchannel: false
      supervised: true
      userenrollment: {mode: forbidden}
payloadkeys:
- key: Colour
  type: <string>
  presence: required
  rangelist: [red, green]
  content: Words that nobody keeps.
- key: Times
  type: <integer>
  presence: optional
  range: {min: 1, max: 9}
- key: OnPhonesOnly
  type: <boolean>
  presence: optional
  supportedOS: {macOS: {introduced: n/a}}
responsekeys:
- key: Lamps
  type: <array>
  presence: required
  subkeys:
  - key: LampsItem
    type: <dictionary>
    subkeys:
    - {key: Name, type: <string>, presence: required}
    - key: Watts
      type: <real>
      presence: optional
      supportedOS: {macOS: {introduced: '26.4', deprecated: '27.0'}}
"""


def made(folder: Path, *arguments: str) -> list[Fact]:
    """The table that the program writes from the YAML in ``folder``."""
    output = folder / "facts.tsv"
    (folder / "none").mkdir(exist_ok=True)
    extra = () if "--additions" in arguments else ("--additions", str(folder / "none"))
    command = [sys.executable, str(MAKE_FACTS), str(folder), "--output", str(output), *extra, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=MAKE_FACTS.parents[1])
    assert done.returncode == 0, done.stderr
    return list(read_facts(output.read_text(encoding="utf-8")))


def lay(folder: Path, text: str = YAML) -> Path:
    """A checkout with this one command."""
    path = folder / "mdm" / "commands" / "blink.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return folder


def test_facts_table_has_facts_and_no_texts(tmp_path: Path) -> None:
    facts = made(lay(tmp_path))
    assert [fact.path for fact in facts] == [
        "",
        "Colour",
        "Times",
        "Lamps",
        "Lamps/LampsItem",
        "Lamps/LampsItem/Name",
        "Lamps/LampsItem/Watts",
    ]
    blink, colour, times, *_, watts = facts
    assert blink == Fact(
        "command",
        "Blink",
        introduced="14.0",
        channels="device",
        rights="AllowSettings",
        flags="supervised|userenrollment=forbidden",
    )
    assert colour == Fact("command", "Blink", "request", "Colour", "string", "required", "red|green")
    assert times.values == "1..9"
    assert (watts.introduced, watts.deprecated) == ("26.4", "27.0")
    assert "nobody keeps" not in (tmp_path / "facts.tsv").read_text(encoding="utf-8")


def test_keys_missing_in_the_newer_checkout_are_removed(tmp_path: Path) -> None:
    older = lay(tmp_path / "older", YAML.replace("OnPhonesOnly", "Gone").replace("{introduced: n/a}}", "{}}"))
    newer = lay(tmp_path / "newer")
    facts = {fact.path: fact for fact in made(newer, "--older", str(older), "--release", "27.0")}
    assert facts["Gone"].removed == "27.0"
    assert [path for path, fact in facts.items() if fact.removed] == ["Gone"]


ADDITIONS = """
payload:
  requesttype: Blink
  supportedOS: {macOS: {introduced: '1.0'}}
payloadkeys:
- {key: Colour, type: <integer>, supportedOS: {macOS: {introduced: '13.0'}}}
- {key: Shade, type: <integer>}
---
payload:
  requesttype: Wink
  supportedOS: {macOS: {introduced: '12.0', removed: '27.0'}}
"""


def test_additions_have_what_the_checkout_lacks_and_nothing_else(tmp_path: Path) -> None:
    schema, extra = lay(tmp_path / "schema"), lay(tmp_path / "extra", ADDITIONS)
    facts = {(fact.message, fact.path): fact for fact in made(schema, "--additions", str(extra))}
    assert facts["Blink", ""].introduced == "14.0"
    assert (facts["Blink", "Colour"].type, facts["Blink", "Colour"].introduced) == ("string", "13.0")
    assert facts["Blink", "Shade"].type == "integer"
    assert (facts["Wink", ""].introduced, facts["Wink", ""].removed) == ("12.0", "27.0")


DECLARATION = """
payload:
  declarationtype: com.example.lamp
  apply: multiple
  supportedOS:
    macOS: {introduced: '26.0', allowed-enrollments: [supervised, local], allowed-scopes: [system, user]}
payloadkeys:
- {key: Bulb, type: <string>, assettypes: [com.apple.asset.data]}
- key: Shade
  type: <dictionary>
  supportedOS: {macOS: {userchannel: false}}
  subkeys:
  - {key: Both, type: <string>}
  - {key: Never, type: <string>, supportedOS: {macOS: {devicechannel: false}}}
reasons:
- value: Error.Dark
  details:
  - {key: Since, type: <string>}
"""


def test_channels_of_keys_are_those_above_them_with_what_they_state(tmp_path: Path) -> None:
    facts = {(fact.part, fact.path): fact for fact in made(lay(tmp_path, DECLARATION))}
    assert facts["", ""].channels == "device|user"
    assert [facts["request", path].channels for path in ("Bulb", "Shade", "Shade/Both", "Shade/Never")] == [
        "",
        "device",
        "",
        "none",
    ]
    assert facts["", ""].flag("enrollments") == "supervised,local"
    assert facts["", ""].flag("apply") == "multiple"
    assert facts["request", "Bulb"].flag("assets") == "com.apple.asset.data"
    assert facts["request", "Bulb"].flag("supervised") is None
    assert facts["reason", "Error.Dark/Since"].type == "string"


@pytest.mark.parametrize(("channels", "on"), [("", True), ("device|user", True), ("user", True), ("device", False)])
def test_channels_of_a_fact(channels: str, *, on: bool) -> None:
    assert Fact("command", "X", channels=channels).is_on("user") is on


def test_folder_without_schema_files_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, str(MAKE_FACTS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=MAKE_FACTS.parents[1])
    assert done.returncode == 2
    assert "Expected Apple's YAML files" in done.stderr


WORDS = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="\x85"), max_size=8)


@given(st.lists(st.builds(Fact, *[WORDS] * len(COLUMNS)), max_size=5, unique_by=lambda fact: fact.place))
def test_facts_table_survives_a_round_trip(facts: list[Fact]) -> None:
    assert list(read_facts(write_facts(facts))) == sorted(facts, key=lambda fact: fact.place)


@pytest.mark.parametrize("text", ["", "kind\n", "# Facts\nkind\tmessage\n"])
def test_other_text_is_not_a_facts_table(text: str) -> None:
    with pytest.raises(MisuseError, match="make_facts"):
        list(read_facts(text))


def test_releases_are_compared_as_numbers() -> None:
    assert version("9.0") < version("10.15") < version("26.4") < version("27") == version("27.0")
    with pytest.raises(MisuseError, match="such as 26"):
        version("newest")


@pytest.mark.parametrize(
    ("release", "expected"), [("11.0", False), ("12.0", True), ("26.4", True), ("27.0", False), ("27.1", False)]
)
def test_key_exists_from_its_release_until_its_removal(release: str, *, expected: bool) -> None:
    assert Fact("command", "X", introduced="12.0", removed="27.0").is_in(release) is expected


def test_packaged_table_has_the_lom_messages() -> None:
    setup = message("command", "LOMSetupRequest")
    assert (setup.fact.introduced, setup.fact.channels) == ("11.0", "device")
    assert setup.fact.rights == "DeviceLockAndRemovePasscode"
    assert {name: key.fact.type for name, key in setup.response.items()} == {
        "LOMProtocolVersion": "integer",
        "PrimaryIPv6AddressList": "array",
        "SecondaryIPv6AddressList": "array",
    }
    item = message("command", "LOMDeviceRequest").request["RequestList"].keys["RequestListItem"]
    assert item.keys["DeviceRequestType"].fact.values == "PowerON|PowerOFF|Reset"
    assert ("check-in", "TokenUpdate") in messages()
    assert ("error", "unrecognized.device") in messages()


def test_packaged_table_is_read_one_kind_at_a_time_and_completely() -> None:
    text = files("agent.mdm").joinpath("facts.tsv").read_text(encoding="utf-8")
    named = {(fact.kind, fact.message) for fact in read_facts(text)}
    assert set(messages()) == named
    assert {kind for kind, _ in named} == set(KINDS)
    assert of_kind("none") == {}


@pytest.mark.parametrize("name", ["AvailableOSUpdates", "OSUpdateStatus", "ScheduleOSUpdate", "ScheduleOSUpdateScan"])
def test_commands_that_apple_removed_stay_in_the_packaged_table(name: str) -> None:
    fact = message("command", name).fact
    assert (fact.is_in("26.5"), fact.is_in("27.0")) == (True, False)


def test_packaged_table_has_the_reasons_of_declarations() -> None:
    assert "ServerToken" in message("declaration", "any").reasons["Error.ConfigurationNotSupported"].keys
    assert "Error.LicenseNotFound" in message("status", "app.managed.list").reasons


def test_unknown_message_is_reported() -> None:
    with pytest.raises(MisuseError, match="Blink"):
        message("command", "Blink")
