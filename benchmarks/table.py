"""What every benchmark prints: lowest and median of its rounds, the floor beside them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def row(what: str, measured: Sequence[float]) -> str:
    """One line of a table, in µs."""
    return f"{what:<58}{min(measured):>9.1f}{median(measured):>9.1f}"


def heading(rounds: int) -> str:
    """The line above."""
    return f"{f'µs of CPU each, {rounds} interleaved rounds':<58}{'lowest':>9}{'median':>9}"


def verdict(aim: str, found: float, most: float, unit: str = "µs") -> str:
    """Whether an aim is reached."""
    return f"{'reached' if found <= most else 'MISSED'}: {aim}: {found:.2f} {unit}, aim {most:g}"
