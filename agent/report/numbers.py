"""Numbers as text for people: three significant digits, with a fitting unit."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"

_UNITS = ((1e-3, 1e3, "µs"), (1e3, 1.0, "ms"), (120e3, 1e-3, "s"), (7_200e3, 1 / 60e3, "min"))
_HOUR_MS = 3_600_000.0


def milliseconds(ms: float | None) -> str:
    """412 µs, 12.3 ms, 1.84 s, 12.0 min."""
    if ms is None:
        return NOTHING
    if not ms:
        return "0 ms"
    if ms < 0.9995:
        return f"{figures(ms * 1e3)} µs"
    for below, factor, unit in _UNITS[1:]:
        if ms < below * 0.9995:
            return f"{figures(ms * factor)} {unit}"
    return f"{figures(ms / _HOUR_MS)} h"


def seconds(number: float | None) -> str:
    """The same for seconds: 0.30 s is 300 ms."""
    return NOTHING if number is None else milliseconds(number * 1e3)


def figures(number: float | None) -> str:
    """0.123, 1.23, 12.3, 123, 1,234."""
    if number is None:
        return NOTHING
    size = abs(number)
    decimals = next((places for limit, places in ((0.9995, 3), (9.995, 2), (99.95, 1)) if size < limit), 0)
    return f"{number:,.{decimals}f}"


def count(number: int | None) -> str:
    """1,234."""
    return NOTHING if number is None else f"{number:,}"


def share(part: float, whole: float) -> str:
    """A part as a percentage: 0 %, 0.042 %, 12.3 %. Only nothing is 0 %, and only the whole is 100 %."""
    if not whole or not part:
        return "0 %"
    percent = 100.0 * part / whole
    if percent < 0.001:
        return "< 0.001 %"
    if part < whole and percent > 99.95:
        return "> 99.9 %"
    return f"{percent:.3g} %" if percent >= 1 else f"{percent:.2g} %"


def change(ratio: float | None) -> str:
    """The ratio of after to before as a change: +25 %, -4.2 % (with U+2212), times 12."""
    if ratio is None:
        return NOTHING
    if ratio >= 10:
        return f"{TIMES}{figures(ratio)}"
    percent = 100.0 * (ratio - 1.0)
    if abs(percent) < 0.05:
        return "±0 %"
    sign = "+" if percent > 0 else MINUS
    return f"{sign}{abs(percent):.1f} %" if abs(percent) < 9.95 else f"{sign}{abs(percent):.0f} %"


def clock(number: float | None) -> str:
    """Seconds from the start as a time: 0:07, 12:30, 1:02:03."""
    if number is None:
        return NOTHING
    whole = round(number)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def mebibytes(kib: int | None) -> str:
    """KiB as MiB."""
    return NOTHING if kib is None else f"{kib / 1024:,.0f} MiB"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 error, 2 errors."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def were(number: int) -> str:
    """was or were."""
    return "was" if number == 1 else "were"


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
