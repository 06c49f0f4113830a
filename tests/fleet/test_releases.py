"""The page about releases of macOS is generated from the tables of releases and of Apple's schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.fleet.releases import differences, document, main

PAGE = Path(__file__).parents[2] / "docs" / "releases.md"


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run `python -m agent.fleet.releases > docs/releases.md`"


def test_differences_are_those_after_the_earlier_release_up_to_the_later() -> None:
    rows = differences("26.0", "27.0").splitlines()
    assert "| command | `ScheduleOSUpdate` | removed | device |" in rows
    assert "| status item | `mdm.push-token` | new | device, user |" in rows
    assert "| status item | `migration-assistant.state` | new | device |" in rows
    assert not any("`package.list`" in row for row in rows)  # of macOS 26.0
    assert not any("TriggerEnhancedLogCollection`, request" in row for row in rows)  # its keys are new with it
    assert len(differences("27.0", "27.0").splitlines()) == 2


def test_two_releases_can_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["15.5", "27.0"]) == 0
    assert capsys.readouterr().out == differences("15.5", "27.0")


@pytest.mark.parametrize("arguments", [["15.5"], ["newest", "27.0"], ["1", "2", "3"]])
def test_other_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "such as 15.5 27.0" in capsys.readouterr().err
