"""Rows of columns as lines of text, for the live screen.

rich's tables take ten times as long: some 15 ms for a large screen, once a second, in the process that also hosts the
lab and the push gateway, which would delay their responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from agent.report.terminal.text import cutting

HEADER_STYLE = "dim underline"
_DONE, _REST = "\N{BOX DRAWINGS HEAVY HORIZONTAL}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
_DONE_ASCII, _REST_ASCII = "#", "-"


class Column(NamedTuple):
    """One column: as wide as its content or, with a ``weight``, a share of the remaining width; at least ``least``."""

    title: str
    weight: int = 0
    least: int = 0
    right: bool = False


class Cell(NamedTuple):
    """A text in a style."""

    text: str
    style: str = ""


class Bar(NamedTuple):
    """A progress bar; ``share`` is from 0 to 1."""

    share: float
    style: str = ""


def lines_of(columns: Sequence[Column], rows: Sequence[Sequence[Cell | Bar]], width: int, encoding: str) -> list[Text]:
    """The titles and the rows as lines, with one blank between columns, cut off at ``width``.

    A row may have fewer cells than there are columns; surplus cells are left out.
    """
    header = [Cell(column.title, HEADER_STYLE) for column in columns]
    widths = _widths(columns, [header, *rows], width)
    lines = []
    for row, gap in ((header, HEADER_STYLE), *((row, "") for row in rows)):
        line = Text(no_wrap=True, overflow="crop")
        for number, (cell, column, columns_wide) in enumerate(zip(row, columns, widths, strict=False)):
            if number:
                line.append(" ", gap)
            line.append_text(_shown(cell, column, columns_wide, encoding))
        lines.append(line)
    return lines


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell | Bar]], width: int) -> list[int]:
    widths = [column.least for column in columns]
    for row in rows:
        for number, (cell, column) in enumerate(zip(row, columns, strict=False)):
            if isinstance(cell, Cell) and not column.weight:
                widths[number] = max(widths[number], cell_len(cell.text))
    left = (
        width
        - (len(columns) - 1)
        - sum(each for each, column in zip(widths, columns, strict=True) if not column.weight)
    )
    for number, column in enumerate(columns):
        if column.weight:
            weights = sum(each.weight for each in columns[number:])
            widths[number] = max(column.least, left * column.weight // weights)
            left -= widths[number]
    return widths


def _shown(cell: Cell | Bar, column: Column, width: int, encoding: str) -> Text:
    if isinstance(cell, Bar):
        return _bar(cell, width, encoding)
    if column.right:
        return Text(" " * (width - cell_len(cell.text)) + cell.text, cell.style)
    text = Text(cell.text, cell.style)
    text.truncate(width, overflow=cutting(encoding), pad=True)
    return text


def _bar(bar: Bar, width: int, encoding: str) -> Text:
    filled = int(min(1.0, max(0.0, bar.share)) * width)
    try:
        (_DONE + _REST).encode(encoding)
    except UnicodeEncodeError:
        done, rest = _DONE_ASCII, _REST_ASCII
    else:
        done, rest = _DONE, _REST
    return Text.assemble((done * filled, bar.style), (rest * (width - filled), "dim"))
