"""Text and numbers on a terminal, or in a log: nothing in them acts on the terminal, breaks a line or fails to encode.

Whatever shows text that a peer or a scenario may have written puts it through `visible`.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType, RenderResult
from rich.text import Text

from agent.report import numbers

NOTHING = "-"  # in ASCII, unlike the dash of the HTML report: a terminal may have no other


def visible(text: str, encoding: str = "utf-8") -> str:
    """``text`` as one line that a terminal only shows: control characters, line ends, invisible and direction-changing
    characters and what ``encoding`` cannot express become escapes like ``\\n``, ``\\x1b`` or ``\\u202e``."""
    shown = text if text.isprintable() else "".join(map(_visible_character, text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _visible_character(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def number(value: float | None) -> str:
    """Three or more figures that matter: 0.123, 1.23, 12.3, 123, 1,234."""
    return NOTHING if value is None else numbers.figures(value)


def cutting(encoding: str) -> OverflowMethod:
    """How rich may show that a text was cut: its ellipsis is not in every encoding."""
    try:
        "\N{HORIZONTAL ELLIPSIS}".encode(encoding)
    except UnicodeEncodeError:
        return "crop"
    return "ellipsis"


def print_line(console: Console, text: str) -> None:
    """Print ``text`` as one line, whatever is in it."""
    # soft_wrap: an address must stay whole for whoever copies it.
    console.print(Text(visible(text, console.encoding)), soft_wrap=True, highlight=False)


class AtLeast:
    """Something printed at the console's width, but not below ``columns``."""

    def __init__(self, columns: int, content: RenderableType) -> None:
        self._columns = columns
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._content, options.update(width=max(options.max_width, self._columns)))


class Indented:
    """A text wrapped some columns in from the left, without the blanks that rich would fill its lines up with.

    The ``lead`` stands in the first line's indent, as the point of a list does.
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
