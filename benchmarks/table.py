"""The output of the benchmarks: lowest and median of the rounds, compared to the floor."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def row(what: str, measured: Sequence[float]) -> str:
    """One line of a table, in µs."""
    return f"{what:<58}{min(measured):>9.1f}{median(measured):>9.1f}"


def heading(rounds: int) -> str:
    """The heading."""
    return f"{f'µs of CPU each, {rounds} interleaved rounds':<58}{'lowest':>9}{'median':>9}"


def verdict(aim: str, found: float, most: float, unit: str = "µs") -> str:
    """The line that says whether a target is reached."""
    return f"{'reached' if found <= most else 'MISSED'}: {aim}: {found:.2f} {unit}, target {most:g}"
