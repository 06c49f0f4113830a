"""What is written from the types, and the ready-made scenarios: they read, and they say what they come to."""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent import plists
from agent.faults.rules import Rule
from agent.profiles.profile import read_profile
from agent.scenario.keys import ARRAYS, RULE, keys_of, tables
from agent.scenario.reading import read_scenario, scenario_from
from agent.scenario.types import PHASE_KINDS, ArrivingPhase, Scenario
from agent.scenario.writing.reference import EXAMPLE, document
from agent.scenario.writing.summary import length_words, summary
from agent.scenario.writing.template import template
from agent.scenario.writing.toml import toml, toml_key

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "docs" / "scenario.md"
READY_MADE = sorted((ROOT / "fixtures" / "scenarios").glob("*.toml"))
SMALL_SECONDS = 60.0


# The reference


def test_reference_equals_the_declarations() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == document(), "write it: lom-agent scenario doc > docs/scenario.md"


def test_reference_has_every_key() -> None:
    text = document()
    for _, table in [*tables(), (RULE, Rule), *PHASE_KINDS.items()]:
        for key in keys_of(table).values():
            if key.table is None and key.name not in ARRAYS:
                assert f"\n| `{key.name}` | " in text


def test_examples_of_the_reference_are_valid() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", document(), re.DOTALL)
    assert blocks[0] == EXAMPLE
    assert summary(scenario_from(tomllib.loads(EXAMPLE))).phases
    scenario_from({**tomllib.loads(blocks[1]), "phase": [{"kind": "enroll"}]})
    assert len(scenario_from(tomllib.loads(blocks[2])).changes) == 3
    for override in re.findall(r"--set ('[^']*'|\S+)", document()):
        if override.startswith("KEY"):
            continue
        scenario_from(tomllib.loads(EXAMPLE), [override.strip("'`")])


# The file to begin with


@examples(25, explored=50)
@given(st.sets(st.sampled_from(sorted(PHASE_KINDS))))
def test_new_scenario_is_valid_and_has_the_requested_phases(kinds: set[str]) -> None:
    scenario = scenario_from(tomllib.loads(template(sorted(kinds))))
    assert scenario.phases[0].kind == "enroll"
    assert kinds <= {phase.kind for phase in scenario.phases}
    assert summary(scenario).notes == ()


def test_default_new_scenario_has_every_key_of_every_table() -> None:
    text = template(sorted(PHASE_KINDS))
    for _, table in [*tables(), (RULE, Rule), *PHASE_KINDS.items()]:
        for name, key in keys_of(table).items():
            assert key.table is not None or name in ARRAYS or re.search(rf"^#?{name} = ", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (where, name)
        for where, table in tables()
        if where.split(".")[0] not in ("server", "push")
        for name, key in keys_of(table).items()
        if key.table is None and name != "phase"
    ],
)
def test_each_commented_key_of_a_new_scenario_is_valid(where: str, name: str) -> None:
    commented = template(["enroll"])
    if where:
        head, rest = commented.split(f"[{where}]\n")
    else:
        head, rest = "", commented
    text = (
        head + (f"[{where}]\n" if where else "") + re.sub(rf"^#({name} = )", r"\1", rest, count=1, flags=re.MULTILINE)
    )
    assert scenario_from(tomllib.loads(text))


scalars = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=("Cs",)))


@given(
    st.recursive(
        scalars | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=10,
    ),
    texts,
)
def test_toml_output_survives_a_round_trip(value: Any, key: str) -> None:
    assert tomllib.loads(f"{toml_key(key)} = {toml(value)}") == {key: value}


# The ready-made ones


def small(file: Path) -> list[str]:
    """The overrides in the comment of a ready-made scenario that shows how to try it."""
    comment = "\n".join(line.removeprefix("#") for line in file.read_text().splitlines() if line.startswith("#"))
    words = shlex.split(comment.partition("lom-agent run ")[2].partition("\n\n")[0])
    assert words[0] == file.name
    return [override for word, override in pairwise(words) if word == "--set"]


def test_there_are_ready_made_scenarios() -> None:
    assert len(READY_MADE) == 7


@pytest.mark.parametrize("file", READY_MADE, ids=lambda file: file.stem)
def test_ready_made_scenario_is_valid_and_named_like_its_file(file: Path) -> None:
    scenario = read_scenario(file)
    assert scenario.name == file.stem
    assert scenario.description
    assert len(scenario.limits) >= 3
    assert scenario.fleet.devices >= 500
    assert summary(scenario).notes == ()


@pytest.mark.parametrize("file", READY_MADE, ids=lambda file: file.stem)
def test_ready_made_scenario_is_valid_with_a_small_fleet(file: Path) -> None:
    scenario = read_scenario(file, small(file))
    assert scenario.fleet.devices == 20
    assert summary(scenario).seconds <= SMALL_SECONDS


def test_ready_made_scenarios_cover_every_phase_kind_except_idle() -> None:
    kinds = {phase.kind for file in READY_MADE for phase in read_scenario(file).phases}
    assert kinds == set(PHASE_KINDS) - {"idle"}


def test_profile_of_the_patch_scenario_is_valid() -> None:
    command = plists.load_dict((ROOT / "fixtures" / "scenarios" / "patch.plist").read_bytes())
    assert command["RequestType"] == "InstallProfile"
    assert read_profile(command["Payload"])


# What a scenario comes to


def come_to(text: str, *overrides: str) -> list[tuple[str, str, float]]:
    reported = summary(scenario_from(tomllib.loads(text), overrides))
    return [(phase.what, phase.how, round(phase.takes, 2)) for phase in reported.phases]


def test_summary_of_a_phase_has_count_rate_and_duration() -> None:
    text = """
        [load]
        rate = 10
        [[phase]]
        kind = "enroll"
        [[phase]]
        kind = "checkin"
        share = 0.1
        arrivals = "ramp"
        rate = 0
        to_rate = 4
        duration = 10
        [[phase]]
        kind = "command"
        concurrency = 8
        [[phase]]
        kind = "lom_setup"
        arrivals = "burst"
        burst = 50
        every = 3
        [[phase]]
        kind = "lom"
        per_request = 0
        segments = 1
        [[phase]]
        kind = "power_cut"
        spread = 4
        seconds = 5
        [[phase]]
        kind = "idle"
        poll = 0.5
    """
    assert come_to(text) == [
        ("100 enrollments", "10 per second", 9.9),
        ("20 sessions, by push, repeating 10", "0 to 4 per second within 10 s", 10.0),
        ("100 commands DeviceInformation", "8 at a time", float("inf")),
        ("100 Macs set up, with a LOM profile", "50 at once every 3 s", 3.0),
        ("1 LOMDeviceRequest, Reset of a whole segment each", "10 per second", 0.0),
        ("10 segments without power for 5 s", "over 4 s", 9.0),
        ("100 Macs, each polls every 500 ms", "", 60.0),
    ]


def test_start_times_follow_from_wait_and_start_at() -> None:
    text = """
        [[phase]]
        kind = "enroll"
        rate = 10
        wait = false
        [[phase]]
        kind = "checkin"
        start_at = 30
        rate = 10
        [[phase]]
        kind = "command"
        concurrency = 1
        [[phase]]
        kind = "idle"
    """
    reported = summary(scenario_from(tomllib.loads(text)))
    assert [(round(phase.begins, 1), phase.settled) for phase in reported.phases] == [
        (0.0, True),
        (30.0, True),
        (39.9, True),
        (39.9, False),
    ]
    assert reported.seconds == pytest.approx(99.9)
    assert not reported.known


def test_summary_notes_lom_without_setup_and_missing_limits() -> None:
    notes = summary(scenario_from({"phase": [{"kind": "enroll"}, {"kind": "lom"}]})).notes
    assert [note.split(":")[0] for note in notes] == [
        "No phase of kind lom_setup is before the first lom",
        "No limits",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (0.35, "350 ms"), (2.5, "2.5 s"), (60.0, "1 min"), (125.0, "2 min 5 s"), (28800.0, "8 h")],
)
def test_durations_are_printed_in_words(seconds: float, words: str) -> None:
    assert length_words(seconds) == words


def test_phase_kinds_differ_by_their_own_keys() -> None:
    for one, other in combinations(PHASE_KINDS.values(), 2):
        common = set(keys_of(one)) & set(keys_of(other))
        assert {"name", "start_at", "wait", "share", "segments"} <= common
    assert all(keys_of(kind).keys() >= {"rate"} for kind in PHASE_KINDS.values() if issubclass(kind, ArrivingPhase))
    assert Scenario.__struct_config__.forbid_unknown_fields
