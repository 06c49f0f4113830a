"""The defects that the lab can have on purpose (``lom-agent lab --defect NAME``). No I/O.

Each breaks one behaviour, so that the requirements of ``lom-agent conform`` with the ids in ``fails`` fail, and no
others. The lab asks for a defect by its name where that behaviour is: ``if "NAME" in self.defects``. A defect is
switched on only by its name; without one the lab is correct.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pkgutil import iter_modules, resolve_name

from agent.errors import OperatorError
from agent.lab.defects.defect import Defect

Defects = frozenset[str]
"""The names of the defects that a lab has."""
NONE: Defects = frozenset()


@cache
def all_defects() -> tuple[Defect, ...]:
    """Every defect, by name: the tables ``DEFECTS`` of the modules of this folder."""
    found: list[Defect] = []
    for module in iter_modules(__path__):
        if module.name != "defect":
            found += resolve_name(f"{__name__}.{module.name}").DEFECTS
    return tuple(sorted(found, key=lambda each: each.name))


def defects_named(names: Iterable[str]) -> Defects:
    """The defects with these names. Raises OperatorError for a name that is none."""
    known = {each.name for each in all_defects()}
    for name in names:
        if name not in known:
            raise OperatorError(f"Expected the name of a defect, found {name[:80]!r}. `--defect list` shows them.")
    return frozenset(names)


__all__ = ["NONE", "Defect", "Defects", "all_defects", "defects_named"]
