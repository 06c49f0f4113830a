"""docs/modelled.md has every error code that a Mac answers with: most of them are a choice of this program."""

from __future__ import annotations

import re
from pathlib import Path

from agent.mdm import results
from agent.profiles import errors

PAGE = (Path(__file__).parents[2] / "docs" / "modelled.md").read_text(encoding="utf-8")


def test_the_page_has_every_code_of_a_command() -> None:
    defined = {value for value in vars(results).values() if isinstance(value, int) and 12000 <= value < 13000}
    assert len(defined) > 10
    assert codes_of_rows("### Errors of a command") == defined


def test_the_page_has_every_code_of_a_profile() -> None:
    defined = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    section = section_of("## Errors of a profile")
    assert len(defined) > 5
    assert {code for code in defined if str(code) not in section} == set()


def section_of(heading: str) -> str:
    return PAGE.partition(f"{heading}\n")[2].partition("\n#")[0]


def codes_of_rows(heading: str) -> set[int]:
    first_cells = [line.split("|")[1] for line in section_of(heading).splitlines() if line.startswith("|")]
    return {int(code) for cell in first_cells for code in re.findall(r"\d{5}", cell)}
