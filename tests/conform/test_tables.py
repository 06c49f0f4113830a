"""The tables of requirements and probes, and docs/conformance.md, which is made from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.conform.probes import needed_by, probes
from agent.conform.reference import document
from agent.conform.requirements import requirements, selected
from agent.conform.verdicts.capabilities import read_capabilities
from agent.conform.verdicts.requirement import PROFILES
from agent.errors import OperatorError

PAGE = Path(__file__).parent.parent.parent / "docs" / "conformance.md"


def test_ids_are_unique_sorted_and_of_one_form() -> None:
    ids = [each.id for each in requirements()]
    assert sorted(set(ids)) == ids
    assert [each for each in ids if not re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9]+)*-[0-9]{2}", each)] == []


def test_each_requirement_is_one_sentence_with_a_source_and_known_profiles_and_probes() -> None:
    known = {each.name for each in probes()}
    for each in requirements():
        assert re.fullmatch(r"[A-Z0-9].*[^.]\.", each.says), each.id
        assert f" {each.level.value} " in each.says, each.id
        assert each.source.document, each.id
        assert each.profiles, each.id
        assert set(each.profiles) <= set(PROFILES), each.id
        assert each.probes, each.id
        assert set(each.probes) <= known, each.id


def test_every_probe_is_needed_and_has_a_name_of_its_own() -> None:
    names = [each.name for each in probes()]
    assert len(set(names)) == len(names)
    assert needed_by(requirements()) == probes()


def test_only_selects_an_area_or_one_requirement_and_nothing_else() -> None:
    assert [each.id for each in selected("lom", ["lom-setup-02"])] == ["LOM-SETUP-02"]
    areas = {each.area for each in selected("macos27", ["LOM"])}
    assert areas == {each.area for each in requirements() if each.id.startswith("LOM-")}
    with pytest.raises(OperatorError, match="Expected the id of a requirement"):
        selected("lom", ["LOM-SET"])


def test_profiles_select_their_requirements_and_all_every_one() -> None:
    assert selected("all") == requirements()
    assert selected("lom") == tuple(each for each in requirements() if "lom" in each.profiles)


def test_the_page_is_the_one_that_is_made_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "run `python -m agent.conform.reference > docs/conformance.md`"
    )


def test_the_capability_of_the_page_is_one_that_a_requirement_needs(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(\[capabilities\]\n.*?)```", document(), re.DOTALL)
    assert example is not None
    file = tmp_path / "capabilities.toml"
    file.write_text(example[1])
    assert read_capabilities(file, [each.needs for each in requirements() if each.needs])
