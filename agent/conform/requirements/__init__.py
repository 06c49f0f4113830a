"""All requirements: the tables ``REQUIREMENTS`` of the modules of this folder, sorted by id."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pkgutil import iter_modules, resolve_name

from agent.conform.verdicts.requirement import PROFILES, Requirement
from agent.errors import OperatorError

ALL = "all"


@cache
def requirements() -> tuple[Requirement, ...]:
    """Every requirement, by id."""
    found: list[Requirement] = []
    for module in iter_modules(__path__):
        found += resolve_name(f"{__name__}.{module.name}").REQUIREMENTS
    return tuple(sorted(found, key=lambda each: each.id))


def selected(profile: str, only: Sequence[str] = ()) -> tuple[Requirement, ...]:
    """The requirements of a profile; with ``only``, those with one of these ids or prefixes of ids, of any profile.

    Raises OperatorError for one that selects nothing.
    """
    if not only:
        return tuple(each for each in requirements() if profile == ALL or profile in each.profiles)
    for text in only:
        if not any(_selects(text, each.id) for each in requirements()):
            raise OperatorError(
                f"Expected the id of a requirement or the beginning of one, such as LOM-SETUP, found {text[:80]!r}. "
                "`lom-agent conform --list` shows them."
            )
    return tuple(each for each in requirements() if any(_selects(text, each.id) for text in only))


def _selects(text: str, id_: str) -> bool:
    upper = text.upper().rstrip("*").rstrip("-")
    return id_ == upper or id_.startswith(f"{upper}-")


__all__ = ["ALL", "PROFILES", "requirements", "selected"]
