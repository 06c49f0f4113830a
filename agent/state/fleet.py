"""The state of a fleet in a file: its groups of Macs, each Mac, the rules, the stored pushes, and the last numbers.

What changed in one turn of the reactor is one transaction, at the end of that turn. What waits for it, such as the
report of a result, goes on after it. So a process that is killed at any moment has sent nothing that its file does not
have. Macs that did nothing yet take no space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from twisted.logger import Logger

from agent.faults.decisions import RuleRecord
from agent.fleet.population import Population
from agent.net.apns.endpoint import PushEndpoint
from agent.net.mac.fleet.keeping import MacRecord
from agent.net.mac.fleet.macs import Fleet
from agent.net.timing import Clock, DelayedCall
from agent.push.store import Notification
from agent.sqlite_file import FileFormat, NotWritten, Read, SQLiteFile, Statement
from agent.state.authorities import KeptAuthorities
from agent.state.rules import RuleWriter

READ_AT_ONCE = 500  # Macs; ours
NUMBERS_AHEAD = 1000  # by which the numbers in the file are ahead of those in use; ours

TABLES = """

CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE groups (
    first INTEGER PRIMARY KEY, first_segment INTEGER NOT NULL, seed TEXT NOT NULL, devices INTEGER NOT NULL,
    segment_size INTEGER NOT NULL, os TEXT, model TEXT, roles TEXT
);
CREATE TABLE removed (first INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (first, place)) WITHOUT ROWID;
CREATE TABLE devices (first INTEGER NOT NULL, place INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (first, place));
CREATE TABLE macs (first INTEGER NOT NULL, place INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (first, place));
CREATE TABLE pushes (
    first INTEGER NOT NULL, place INTEGER NOT NULL, topic TEXT NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (first, place, topic)
);
CREATE TABLE rules (number INTEGER PRIMARY KEY, record BLOB NOT NULL);
"""
_FORMAT = FileFormat(
    what="the state of a fleet",
    in_use="Expected a state file that no other process uses, found {path} in use. End the lom-agent that uses it, or "
    "name another file.",
    application=0x6C6F6D66,  # "lomf"
    version=2,
    tables=TABLES,
    migrations={1: "ALTER TABLE groups ADD COLUMN roles TEXT;"},
    instead="Move it away, with the files of the other workers where it has any, to start with an empty state.",
)
_OF_A_GROUP = ("groups", "removed", "devices", "macs", "pushes")
_MACS = (
    "SELECT macs.place, devices.record, macs.record FROM macs JOIN devices USING (first, place) "
    "WHERE macs.first = ? AND macs.place > ? ORDER BY macs.place LIMIT ?"
)
_MAC_STATEMENTS = (
    "INSERT OR REPLACE INTO devices VALUES (?, ?, ?)",
    "INSERT OR REPLACE INTO macs VALUES (?, ?, ?)",
)
_OF_A_MAC = ("devices", "macs", "pushes")
_log = Logger()


def _hashes(device: bytes, record: bytes) -> tuple[int, int]:
    return hash(device), hash(record)


class Numbers(msgspec.Struct, frozen=True):
    """Where a service goes on."""

    event: int
    exchange: int
    macs: int | None
    """The number of the next Mac; None in a new file."""
    segments: int
    requests: int
    seed: str | None


class StoredGroup(msgspec.Struct, frozen=True):
    """A group in the file."""

    first: int
    first_segment: int
    seed: str
    devices: int
    segment_size: int
    os: str | None
    model: str | None
    roles: str | None
    """With a blank between two."""

    @property
    def population(self) -> Population:
        """Its Macs. Raises OperatorError."""
        roles = None if self.roles is None else self.roles.split()
        return Population(self.seed, self.devices, self.segment_size, os=self.os, model=self.model, roles=roles)


def group_columns(population: Population) -> tuple[str, int, int, str | None, str | None, str | None]:
    """What a group of the file has of its population."""
    roles = None if population.roles is None else " ".join(population.roles)
    return population.seed, population.devices, population.segment_size, population.os, population.model, roles


class StoredMac(msgspec.Struct, frozen=True):
    """A Mac in the file, by its index in its group."""

    index: int
    device: bytes
    record: MacRecord


class KeptGroup(Protocol):
    """A group of Macs; ``first`` and ``first_segment`` are the numbers of its first Mac and segment in the file."""

    @property
    def first(self) -> int: ...
    @property
    def first_segment(self) -> int: ...
    @property
    def population(self) -> Population: ...
    @property
    def fleet(self) -> Fleet: ...
    @property
    def push_endpoint(self) -> PushEndpoint | None: ...


class FleetState:
    """An open state file. Raises OperatorError if it cannot be opened.

    ``format`` has ``TABLES`` and others, which ``execute`` writes and ``rows`` reads. ``more`` returns further
    statements of each transaction; ``soon`` asks for one.
    ``on_failure`` is called once, when a transaction cannot be written: nothing is written or sent after that.
    """

    def __init__(self, path: Path, clock: Clock, format: FileFormat = _FORMAT) -> None:  # noqa: A002 - the field's word
        self.path = path
        self.on_failure: Callable[[NotWritten], object] = lambda _error: None
        self.more: Callable[[], Iterable[Statement]] = tuple
        self._file = SQLiteFile(path, format)
        self._clock = clock
        self._closed = False
        self._call: DelayedCall | None = None
        self._statements: list[Statement] = []
        self._then: list[Callable[[], object]] = []
        self._fleets: dict[int, Fleet] = {}
        self._changed: dict[tuple[int, int], None] = {}
        self._written: dict[tuple[int, int], tuple[int, int]] = {}  # hashes of the two records of each Mac
        self._settings: dict[str, str] = dict(self._file.rows("SELECT name, value FROM settings"))
        self._groups_with_pushes: dict[KeptGroup, None] = {}  # whose stored pushes changed
        self._pushes: dict[tuple[int, int, str], tuple[Notification, float]] = {}
        self.rules_now: Callable[[], list[RuleRecord]] = list
        self._rules = RuleWriter(clock)
        self._rules_changed = False

    # What the service reads when it starts.

    def setting(self, name: str) -> str | None:
        """A setting, or None."""
        return self._settings.get(name)

    def numbers(self) -> Numbers:
        """The numbers of the last process. Raises OperatorError."""
        names = "event", "exchange", "segments", "requests"
        event, exchange, segments, requests = (self.reading(partial(int, self.setting(name) or 0)) for name in names)
        macs = self.setting("macs")
        return Numbers(
            event, exchange, None if macs is None else self.reading(partial(int, macs)), segments, requests,
            self.setting("seed"),
        )  # fmt: skip

    def groups(self) -> list[StoredGroup]:
        """The groups, in order. Raises OperatorError."""
        return [StoredGroup(*row) for row in self._file.rows("SELECT * FROM groups ORDER BY first")]

    def removed(self, first: int) -> list[int]:
        """The Macs that were removed from a group. Raises OperatorError."""
        return [place for (place,) in self._file.rows("SELECT place FROM removed WHERE first = ?", first)]

    def macs(self, first: int) -> Iterator[StoredMac]:
        """The Macs of a group that did something, by index. Raises OperatorError."""
        decode = msgspec.msgpack.Decoder(MacRecord).decode
        after = -1
        while rows := self._file.rows(_MACS, first, after, READ_AT_ONCE):
            for place, device, record in rows:
                self._written[first, place] = _hashes(device, record)
                yield StoredMac(place, device, self._file.reading(partial(decode, record)))
            after = rows[-1][0]

    def reading(self, read: Callable[[], Read]) -> Read:
        """The result of ``read``, which uses what is in the file. Raises OperatorError where it fails."""
        return self._file.reading(read)

    def pushes(self, first: int) -> list[tuple[Notification, float]]:
        """The notifications stored for a group's Macs, and the times before which they are not delivered."""
        rows = self._file.rows("SELECT place, topic, record FROM pushes WHERE first = ?", first)
        decode = msgspec.msgpack.Decoder(tuple[Notification, float]).decode
        found = self._file.reading(lambda: {(first, place, topic): decode(octets) for place, topic, octets in rows})
        self._pushes |= found
        return list(found.values())

    def rules(self) -> list[RuleRecord]:
        """The rules, oldest first. Raises OperatorError."""
        rows = self._file.rows("SELECT record FROM rules ORDER BY number")
        decode = msgspec.msgpack.Decoder(RuleRecord).decode
        records = self._file.reading(lambda: [decode(octets) for (octets,) in rows])
        self._rules.stored(records)
        return records

    # What changes. Everything is written at the end of this turn.

    def set(self, name: str, value: str) -> None:
        """Set a setting."""
        if self._settings.get(name) != value:
            self._settings[name] = value
            self.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, value)

    def number(self, name: str, last: int) -> None:
        """The last number in use: a process after this one continues after a higher one."""
        if last > int(self._settings.get(name, "0")) - NUMBERS_AHEAD // 2:
            self.set(name, str(last + NUMBERS_AHEAD))

    def add_group(self, group: KeptGroup, *, stored: bool = False) -> None:
        """Follow a group, which is in the file already where it is ``stored``."""
        self._fleets[group.first] = group.fleet
        if group.push_endpoint is not None:
            group.push_endpoint.on_change = partial(self._pushes_changed, group)
        if not stored:
            self.execute(
                "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                group.first, group.first_segment, *group_columns(group.population),
            )  # fmt: skip

    def remove_group(self, group: KeptGroup) -> None:
        """Forget a group and its Macs."""
        self._groups_with_pushes.pop(group, None)
        self.forget_group(group.first)

    def forget_group(self, first: int) -> None:
        """Forget the group whose first Mac has this number, also one that was never followed."""
        self._fleets.pop(first, None)
        self._changed = {key: None for key in self._changed if key[0] != first}
        self._written = {key: each for key, each in self._written.items() if key[0] != first}
        self._pushes = {key: each for key, each in self._pushes.items() if key[0] != first}
        for table in _OF_A_GROUP:
            self.execute(f"DELETE FROM {table} WHERE first = ?", first)  # noqa: S608 - the names above

    def reset_mac(self, first: int, index: int) -> None:
        """A Mac is as it was made from the seed."""
        self._changed.pop((first, index), None)
        self._written.pop((first, index), None)
        for key in [key for key in self._pushes if key[:2] == (first, index)]:
            del self._pushes[key]
        for table in _OF_A_MAC:
            self.execute(f"DELETE FROM {table} WHERE first = ? AND place = ?", first, index)  # noqa: S608 - as above

    def remove_mac(self, first: int, index: int) -> None:
        """A Mac is removed."""
        self.reset_mac(first, index)
        self.execute("INSERT OR IGNORE INTO removed VALUES (?, ?)", first, index)

    def rules_changed(self) -> None:
        """A rule was added, removed or asked; ``rules_now`` returns them all."""
        self._rules_changed = True
        self.soon()

    def execute(self, statement: str, *values: Any) -> None:
        """Execute a statement with the next transaction."""
        self._statements.append((statement, values))
        self.soon()

    def soon(self) -> None:
        """Write at the end of this turn."""
        if self._call is None and not self._closed:
            self._call = self._clock.callLater(0, self.flush)

    def authorities(self) -> KeptAuthorities:
        """The CAs in the file, whose format has AUTHORITIES_TABLE."""
        return KeptAuthorities(self._file)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a SELECT. Raises OperatorError."""
        return self._file.rows(statement, *values)

    def keeper(self, first: int) -> GroupKeeper:
        """The Keeper of a group's Macs."""
        return GroupKeeper(self, first)

    def changed(self, first: int, index: int) -> None:
        """Write a Mac."""
        self._changed[first, index] = None
        self.soon()

    def when_kept(self, first: int, index: int, then: Callable[[], object]) -> None:
        """Write a Mac, then call ``then``."""
        self._changed[first, index] = None
        self._then.append(then)
        self.soon()

    # The file.

    def close(self) -> None:
        """Write what is not written yet and close the file. Nothing is written or called after that."""
        if self._closed:
            return
        self._then.clear()
        try:
            self.flush()
        finally:
            self._stop()

    def flush(self) -> None:
        """Write everything that changed as one transaction, then call what waits for it."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        if self._closed:
            return
        waiting, self._then = self._then, []
        statements = list(self._changes())
        try:
            if statements:
                self._file.write(statements, durable=bool(waiting))
        except NotWritten as error:
            self._stop()
            self.on_failure(error)
            return
        for then in waiting:
            try:
                then()
            except Exception:  # noqa: BLE001 - a defect in one Mac must not stop the others
                _log.failure("what waited for the state file failed")

    def _changes(self) -> Iterator[Statement]:
        yield from self._statements
        self._statements = []
        changed, self._changed = self._changed, {}
        for first, index in changed:
            yield from self._mac(first, index)
        groups, self._groups_with_pushes = self._groups_with_pushes, {}
        for group in groups:
            yield from self._pushes_of(group)
        yield from self.more()
        if self._rules_changed:
            self._rules_changed = False
            yield from self._rules.statements(self.rules_now())

    def _mac(self, first: int, index: int) -> Iterable[Statement]:
        fleet = self._fleets.get(first)
        if fleet is None or index not in fleet or fleet[index].is_untouched:
            return ()
        try:
            device, record = fleet[index].record()
            octets = device, msgspec.msgpack.encode(record)
        except Exception:  # noqa: BLE001 - a defect in one Mac must not stop the others
            _log.failure("a Mac cannot be written to the state file")
            return ()
        before, after = self._written.get((first, index), (0, 0)), _hashes(*octets)
        self._written[first, index] = after
        return [
            (statement, (first, index, each))
            for statement, each, old, new in zip(_MAC_STATEMENTS, octets, before, after, strict=True)
            if old != new
        ]

    def _pushes_changed(self, group: KeptGroup) -> None:
        self._groups_with_pushes[group] = None
        self.soon()

    def _pushes_of(self, group: KeptGroup) -> Iterator[Statement]:
        if group.push_endpoint is None or group.first not in self._fleets:
            return
        present = {
            (group.first, notification.index, notification.topic): (notification, not_before)
            for notification, not_before in group.push_endpoint.broker.stored
        }
        for key in [key for key in self._pushes if key[0] == group.first and key not in present]:
            del self._pushes[key]
            yield "DELETE FROM pushes WHERE first = ? AND place = ? AND topic = ?", key
        for key, stored in present.items():
            if self._pushes.get(key) != stored:
                self._pushes[key] = stored
                yield "INSERT OR REPLACE INTO pushes VALUES (?, ?, ?, ?)", (*key, msgspec.msgpack.encode(stored))

    def _stop(self) -> None:
        self._closed = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        self._then.clear()
        self._file.close()


class GroupKeeper:
    """The Keeper of one group's Macs (`agent.net.mac.fleet.keeping`)."""

    def __init__(self, state: FleetState, first: int) -> None:
        self._state = state
        self._first = first

    def changed(self, index: int) -> None:
        """Write Mac ``index`` soon."""
        self._state.changed(self._first, index)

    def when_kept(self, index: int, then: Callable[[], object]) -> None:
        """Write Mac ``index``, then call ``then``."""
        self._state.when_kept(self._first, index, then)
