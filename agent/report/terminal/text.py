"""Text and numbers for a terminal or a log, without control characters, line breaks and encoding errors.

All text that a peer or a scenario may have written goes through `visible`.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType, RenderResult
from rich.text import Text

from agent.report import numbers

NOTHING = "-"  # ASCII, unlike the dash of the HTML report: a terminal may have no other


def visible(text: str, encoding: str = "utf-8") -> str:
    """``text`` as one line without effect on a terminal.

    Control, invisible and direction-changing characters, line ends and characters outside ``encoding`` become escapes
    like ``\\n``, ``\\x1b`` or ``\\u202e``.
    """
    shown = text if text.isprintable() else "".join(map(_visible_character, text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _visible_character(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def number(value: float | None) -> str:
    """Three or more significant digits: 0.123, 1.23, 12.3, 123, 1,234."""
    return NOTHING if value is None else numbers.figures(value)


def cutting(encoding: str) -> OverflowMethod:
    """How rich shows that a text was cut: not every encoding has its ellipsis."""
    try:
        "\N{HORIZONTAL ELLIPSIS}".encode(encoding)
    except UnicodeEncodeError:
        return "crop"
    return "ellipsis"


def print_line(console: Console, text: str) -> None:
    """Print ``text`` as one line."""
    # soft_wrap: an address must stay in one piece to be copied.
    console.print(Text(visible(text, console.encoding)), soft_wrap=True, highlight=False)


class AtLeast:
    """Content printed at the console's width, at least ``columns`` wide."""

    def __init__(self, columns: int, content: RenderableType) -> None:
        self._columns = columns
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._content, options.update(width=max(options.max_width, self._columns)))


class Indented:
    """A wrapped and indented text, without the trailing blanks that rich adds.

    The ``lead`` is in the indent of the first line, like the bullet of a list.
    """

    def __init__(self, columns: int, text: Text, lead: Iterable[tuple[str, str]] = ()) -> None:
        self._columns = columns
        self._text = text
        self._lead = Text.assemble(*lead)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lead = self._lead
        # "fold", because a peer's text may be one word of 500 characters.
        for line in self._text.wrap(console, max(1, options.max_width - self._columns), overflow="fold"):
            line.rstrip()
            yield Text.assemble(lead, " " * (self._columns - lead.cell_len), line)
            lead = Text()
