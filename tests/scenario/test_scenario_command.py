"""``lom-agent scenario``: what a person sees of a scenario, before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.scenarios.commands import scenario
from agent.errors import OperatorError
from agent.scenario.writing.reference import document

GOOD = 'name = "good"\nlimits = ["enroll.errors == 0"]\n[[phase]]\nkind = "enroll"\nrate = 20\n'


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(scenario, [str(argument) for argument in arguments], catch_exceptions=False)


def test_check_prints_a_summary(tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    done = command("check", file, "--set", "fleet.devices=40")
    assert done.exit_code == 0
    assert "40 Macs in 4 segments of 10" in done.output
    assert "40 enrollments  20 per second    1.95 s" in done.output
    assert "Limit: enroll.errors == 0" in done.output
    assert "The schedule takes 1.95 s, then up to 30 s for operations in progress." in done.output


def test_check_continues_after_an_invalid_scenario_and_exits_with_2(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("rate", "rtae"))
    done = command("check", bad, good)
    assert done.exit_code == 2
    assert f'lom-agent: {bad}: phase[0] ("enroll") has no key "rtae"; did you mean "rate"?' in done.stderr
    assert "100 enrollments" in done.output


def test_markup_in_a_scenario_is_printed_literally(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        GOOD + '[[phase]]\nkind = "command"\nrequest = { RequestType = "[bold]X[/]" }\n[fleet]\nseed = "[/]"\n'
    )
    done = command("check", file)
    assert "commands [bold]X[/]" in done.output
    assert 'seed "[/]"' in done.output


def test_new_writes_a_valid_scenario_and_refuses_to_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert command("new", file, "--kind", "lom", "--kind", "power_cut").exit_code == 0
    text = file.read_text()
    assert command("check", file).exit_code == 0
    with pytest.raises(OperatorError, match=r"found that .*mine\.toml exists\. Overwrite it with --force"):
        command("new", file)
    assert file.read_text() == text
    assert command("new", file, "--force").exit_code == 0
    assert file.read_text() != text


def test_new_without_a_file_prints_it(tmp_path: Path) -> None:
    printed = command("new").output
    file = tmp_path / "mine.toml"
    file.write_text(printed)
    assert command("check", file).exit_code == 0


def test_new_reports_an_unwritable_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be written: No such file or directory"):
        command("new", tmp_path / "nowhere" / "mine.toml")


def test_doc_prints_the_reference() -> None:
    assert command("doc").output == document()
