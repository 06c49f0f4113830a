"""Apple's device management schema for macOS as data: ``facts.tsv``.

Each line of the table is one message, or one key of a message. ``fixtures/make_facts.py`` writes it from a checkout of
Apple's YAML, once for each release of the schema. The names of rights, types and messages are Apple's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cache
from importlib.resources import files

from agent.errors import MisuseError

FIRST_LINE = "# Facts of Apple's device management schema for macOS; made by fixtures/make_facts.py"


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the table: a message where ``path`` is empty, else one of its keys. An empty text: not stated."""

    kind: str
    """``check-in``, ``command``, ``payload``, ``declaration``, ``status``, ``protocol``, ``error`` or ``other``."""
    message: str
    """The RequestType, MessageType, PayloadType or type of the declaration or status item."""
    part: str = ""
    """``request`` or ``response``."""
    path: str = ""
    """The key, below the keys of its dictionaries and arrays, separated by ``/``; an array's item has a key too."""
    type: str = ""
    """``string``, ``integer``, ``real``, ``boolean``, ``date``, ``data``, ``array``, ``dictionary`` or ``any``."""
    presence: str = ""
    """``required`` or ``optional``."""
    values: str = ""
    """The allowed values, separated by ``|``, or ``least..most`` for a number."""
    introduced: str = ""
    """The first macOS release that has it."""
    deprecated: str = ""
    """The macOS release that deprecates it."""
    removed: str = ""
    """The first macOS release without it."""
    channels: str = ""
    """``device``, ``user`` or both, separated by ``|``; ``none`` where no channel accepts it."""
    rights: str = ""
    """The access rights that a command needs, by Apple's names."""
    flags: str = ""
    """``supervised``, ``requiresdep``, ``userapprovedmdm``, ``userenrollment=MODE``, ``multiple=BOOLEAN``."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """The key of this fact."""
        return self.kind, self.message, self.part, self.path

    def removed_in(self, release: str) -> Fact:
        """The same fact, removed in ``release`` unless it was removed before."""
        return self if self.removed else replace(self, removed=release)

    def is_in(self, release: str) -> bool:
        """Whether macOS ``release`` has it, by this line alone."""
        now = version(release)
        if self.introduced and now < version(self.introduced):
            return False
        return not self.removed or now < version(self.removed)


COLUMNS = tuple(each.name for each in fields(Fact))


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a message, with the keys below it by name."""

    fact: Fact
    keys: Mapping[str, Key] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.fact.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its own fact, and the keys of its request and of its response by name."""

    fact: Fact
    request: Mapping[str, Key] = field(default_factory=dict)
    response: Mapping[str, Key] = field(default_factory=dict)


def version(release: str) -> tuple[int, ...]:
    """A macOS release for comparisons: ``26.4`` is before ``27``. Raises MisuseError for another text."""
    try:
        numbers = [int(part) for part in release.split(".")]
    except ValueError:
        raise MisuseError(f"Expected a macOS release such as 26.4, found {release!r}.") from None
    return tuple([*numbers, 0, 0][:3])


def write_facts(facts: Iterable[Fact]) -> str:
    """The table's text. Raises MisuseError for a value with a tab or a line end."""
    lines = [FIRST_LINE, "\t".join(COLUMNS)]
    for fact in sorted(facts, key=lambda each: each.place):
        values = astuple(fact)
        if any(mark in value for value in values for mark in "\t\r\n"):
            raise MisuseError(f"Expected values without tabs and line ends, found {fact!r}.")
        lines.append("\t".join(values).rstrip("\t"))
    return "\n".join(lines) + "\n"


def read_facts(text: str) -> Iterator[Fact]:
    """Every fact of a table. Raises MisuseError for another text."""
    lines = iter(text.splitlines())
    if next(lines, "") != FIRST_LINE or tuple(next(lines, "").split("\t")) != COLUMNS:
        raise MisuseError("Expected a table made by fixtures/make_facts.py, found something else. Run it again.")
    for line in lines:
        values = line.split("\t")
        if len(values) > len(COLUMNS):
            raise MisuseError(f"Expected at most {len(COLUMNS)} columns, found {len(values)}: {line[:200]!r}.")
        yield Fact(*values)


@cache
def messages() -> Mapping[tuple[str, str], Message]:
    """Every message of the package's table, by kind and name."""
    text = files("agent.mdm").joinpath("facts.tsv").read_text(encoding="utf-8")
    found: dict[tuple[str, str], Message] = {}
    parents: dict[tuple[str, str], dict[str, Key]] = {}
    for fact in read_facts(text):  # a dictionary comes before its keys, because lines are sorted
        if not fact.path:
            request, response = {}, {}  # type: dict[str, Key], dict[str, Key]
            found[fact.kind, fact.message] = Message(fact, request, response)
            parents = {("request", ""): request, ("response", ""): response}
            continue
        above, _, name = fact.path.rpartition("/")
        below: dict[str, Key] = {}
        parents[fact.part, above][name] = Key(fact, below)
        parents[fact.part, fact.path] = below
    return found


def message(kind: str, name: str) -> Message:
    """One message. Raises MisuseError if the table does not have it."""
    found = messages().get((kind, name))
    if found is None:
        raise MisuseError(f"Expected a {kind} of Apple's schema, found {name!r}.")
    return found
