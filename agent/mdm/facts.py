"""Apple's device management schema for macOS as data: ``facts.tsv``.

Each line of the table is one message, or one key of a message. ``fixtures/make_facts.py`` writes it from a checkout of
Apple's YAML, once for each release of the schema. The names of rights, types and messages are Apple's. The part of a
kind is read when the first message of that kind is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files

import msgspec
from msgspec.structs import astuple, replace

from agent.errors import MisuseError

FIRST_LINE = "# Facts of Apple's device management schema for macOS; made by fixtures/make_facts.py"


class Fact(msgspec.Struct, frozen=True):
    """One line of the table: a message where ``path`` is empty, else one of its keys. An empty text: not stated."""

    kind: str
    """``check-in``, ``command``, ``payload``, ``declaration``, ``status``, ``protocol``, ``error`` or ``other``."""
    message: str
    """The RequestType, MessageType, PayloadType or type of the declaration or status item."""
    part: str = ""
    """``request``, ``response``, or ``reason``: of the status of a declaration or an app; its path is the code."""
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
    """``device``, ``user`` or both, separated by ``|``; ``none`` where no channel accepts it. Empty for a key: those of
    the key or message above it."""
    rights: str = ""
    """The access rights that a command needs, by Apple's names."""
    flags: str = ""
    """``supervised``, ``requiresdep``, ``userapprovedmdm``, ``allowmanualinstall``, ``userenrollment=MODE``,
    ``multiple=BOOLEAN``; of declarations ``apply=HOW``, and of them and status items ``enrollments=NAME,NAME``; of a
    key that names an asset ``assets=TYPE,TYPE``."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """The key of this fact."""
        return self.kind, self.message, self.part, self.path

    def removed_in(self, release: str) -> Fact:
        """The same fact, removed in ``release`` unless it was removed before."""
        return self if self.removed else replace(self, removed=release)

    def completed_by(self, other: Fact) -> Fact:
        """The same fact, with the values of ``other`` where it has none."""
        return Fact(*[own or added for own, added in zip(astuple(self), astuple(other), strict=True)])

    def is_in(self, release: str) -> bool:
        """Whether macOS ``release`` has it, by this line alone."""
        now = version(release)
        if self.introduced and now < version(self.introduced):
            return False
        return not self.removed or now < version(self.removed)

    def is_on(self, channel: str) -> bool:
        """Whether the ``device`` or ``user`` channel has it, by this line alone."""
        return not self.channels or channel in self.channels.split("|")

    def flag(self, name: str) -> str | None:
        """The value of a flag; empty for one without a value, None if it is not set."""
        for each in self.flags.split("|"):
            found, _, value = each.partition("=")
            if found == name:
                return value
        return None


COLUMNS = Fact.__struct_fields__


class Key(msgspec.Struct, frozen=True):
    """One key of a message, with the keys below it by name."""

    fact: Fact
    keys: Mapping[str, Key] = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.fact.path.rpartition("/")[2]


class Message(msgspec.Struct, frozen=True):
    """One message: its own fact, the keys of its request and of its response by name, and its reasons by code."""

    fact: Fact
    request: Mapping[str, Key] = msgspec.field(default_factory=dict)
    response: Mapping[str, Key] = msgspec.field(default_factory=dict)
    reasons: Mapping[str, Key] = msgspec.field(default_factory=dict)


@lru_cache(maxsize=256)  # of the releases in the table and of the fleet
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
def of_kind(kind: str) -> Mapping[str, Message]:
    """Every message of this kind in the package's table, by name."""
    text = files("agent.mdm").joinpath("facts.tsv").read_text(encoding="utf-8")
    head, _, body = text.partition("\n")
    columns, _, lines = body.partition("\n")
    first = 0 if lines.startswith(f"{kind}\t") else lines.find(f"\n{kind}\t") + 1
    last = lines.rfind(f"\n{kind}\t") + 1
    end = lines.find("\n", last)  # the lines of a kind follow each other, because the table is sorted
    part = lines[first:end] if lines.startswith(f"{kind}\t", first) else ""
    return _messages(read_facts(f"{head}\n{columns}\n{part}"))


def _messages(facts: Iterable[Fact]) -> dict[str, Message]:
    found: dict[str, Message] = {}
    parents: dict[tuple[str, str], dict[str, Key]] = {}
    for fact in facts:  # a dictionary comes before its keys, because lines are sorted
        if not fact.path:
            parts: dict[str, dict[str, Key]] = {"request": {}, "response": {}, "reason": {}}
            found[fact.message] = Message(fact, parts["request"], parts["response"], parts["reason"])
            parents = {(part, ""): keys for part, keys in parts.items()}
            continue
        above, _, name = fact.path.rpartition("/")
        below: dict[str, Key] = {}
        parents[fact.part, above][name] = Key(fact, below)
        parents[fact.part, fact.path] = below
    return found


KINDS = ("check-in", "command", "declaration", "error", "other", "payload", "protocol", "status")


def messages() -> Mapping[tuple[str, str], Message]:
    """Every message of the package's table, by kind and name."""
    return {(kind, name): each for kind in KINDS for name, each in of_kind(kind).items()}


def message(kind: str, name: str) -> Message:
    """One message. Raises MisuseError if the table does not have it."""
    found = of_kind(kind).get(name)
    if found is None:
        raise MisuseError(f"Expected a {kind} of Apple's schema, found {name!r}.")
    return found
