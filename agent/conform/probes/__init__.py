"""All probes: the tables ``PROBES`` of the modules of this folder, sorted by name.

A probe provokes something with fresh Macs; it judges nothing. Requirements name it, and see the records that it left.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pkgutil import iter_modules, resolve_name

from agent.conform.probes.probe import Probe
from agent.conform.verdicts.requirement import Requirement


@cache
def probes() -> tuple[Probe, ...]:
    """Every probe, by name."""
    found: list[Probe] = []
    for module in iter_modules(__path__):
        if module.name != "probe":
            found += resolve_name(f"{__name__}.{module.name}").PROBES
    return tuple(sorted(found, key=lambda each: each.name))


def needed_by(requirements: Iterable[Requirement]) -> tuple[Probe, ...]:
    """The probes of these requirements, by name."""
    names = {name for each in requirements for name in each.probes}
    return tuple(each for each in probes() if each.name in names)


__all__ = ["Probe", "needed_by", "probes"]
