"""The state of a lab in a file: its CAs, enrollments, queues, results, challenges, token and ports.

One SQLite database that only its owner can read. Every change is a transaction that is committed before the lab
answers, so a killed process leaves the state of its last answer. Only one process at a time can open it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping, MutableSet
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from agent import plists
from agent.lab.mdm.core import Refused
from agent.lab.stored.state import EnrolledMac, QueuedCommand, StoredResult
from agent.pki.issuing.authority import Authority
from agent.sqlite_file import FileFormat, NotWritten, SQLiteFile, Statement
from agent.state.authorities import AUTHORITIES_TABLE, KeptAuthorities

NAME = "lab.sqlite"

_TABLES = f"""
{AUTHORITIES_TABLE}
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE challenges (challenge TEXT PRIMARY KEY);
CREATE TABLE macs (
    udid TEXT PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE, announcement BLOB NOT NULL, token BLOB NOT NULL,
    push_magic TEXT NOT NULL, bootstrap_token BLOB NOT NULL, status_report BLOB NOT NULL
);
CREATE TABLE commands (
    number INTEGER PRIMARY KEY, udid TEXT NOT NULL, command_uuid TEXT NOT NULL, request_type TEXT NOT NULL,
    body BLOB NOT NULL, UNIQUE (udid, command_uuid)
);
CREATE TABLE results (
    number INTEGER PRIMARY KEY, udid TEXT NOT NULL, command_uuid TEXT NOT NULL, status TEXT NOT NULL,
    body BLOB NOT NULL, UNIQUE (udid, command_uuid)
);
"""

_FORMAT = FileFormat(
    what="the state of a lab",
    in_use="Expected a folder that no other lab uses, found a lab that is running in {folder}. End that lab, or use "
    "another folder.",
    application=0x6C6F6D61,  # "loma"
    version=1,
    tables=_TABLES,
)

Read = TypeVar("Read")


class LabStore:
    """A ``LabState`` in an existing folder. Raises OperatorError if it cannot be opened or read.

    ``authorities`` and ``challenges`` are the stores for ``Authorities`` and ``SCEPService``.
    """

    def __init__(self, folder: Path) -> None:
        self._file = SQLiteFile(folder / NAME, _FORMAT)
        self.authorities: MutableMapping[str, Authority] = KeptAuthorities(self._file)
        self.challenges: MutableSet[str] = _StoredChallenges(self)

    def close(self) -> None:
        """Close the file, so that another process can open it."""
        self._file.close()

    def setting(self, name: str) -> str | None:
        """A stored setting, or None."""
        rows = self.rows("SELECT value FROM settings WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def set(self, name: str, value: str) -> None:
        """Store a setting. Raises OperatorError."""
        self._file.write([("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))], durable=False)

    def port(self, name: str) -> int:
        """The port of the last process, which the enrolled Macs and the server use; 0 picks a free one."""
        return self.reading(lambda: int(self.setting(name) or 0))

    def keep_port(self, name: str, url: str) -> None:
        """Store the port of a URL; nothing for an empty one. Raises OperatorError."""
        number = urlsplit(url).port
        if number is not None:
            self.set(name, str(number))

    # LabState.

    def macs(self) -> list[EnrolledMac]:
        """The stored Macs. Raises OperatorError."""
        return self.reading(self._macs)

    def enroll(self, mac: EnrolledMac) -> None:
        """Store a new or re-enrolled Mac."""
        self.write(
            *_forgotten(mac.udid),
            (
                "INSERT INTO macs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (mac.udid, mac.fingerprint, plists.dump_binary(dict(mac.announcement)), mac.token, mac.push_magic,
                 mac.bootstrap_token, mac.status_report),
            ),
        )  # fmt: skip

    def update(self, mac: EnrolledMac) -> None:
        """Store a changed certificate, tokens, PushMagic or status report."""
        self.write(
            (
                "UPDATE macs SET fingerprint=?, token=?, push_magic=?, bootstrap_token=?, status_report=? WHERE udid=?",
                (mac.fingerprint, mac.token, mac.push_magic, mac.bootstrap_token, mac.status_report, mac.udid),
            )
        )

    def check_out(self, udid: str) -> None:
        """Delete a Mac."""
        self.write(*_forgotten(udid))

    def queue(self, udid: str, command_uuid: str, command: QueuedCommand) -> None:
        """Store a queued command."""
        self.write(
            (
                "INSERT INTO commands (udid, command_uuid, request_type, body) VALUES (?, ?, ?, ?)",
                (udid, command_uuid, command.request_type, command.body),
            )
        )

    def unqueue(self, udid: str, command_uuid: str) -> None:
        """Delete a queued command."""
        self.write(_unqueued(udid, command_uuid))

    def answer(self, udid: str, command_uuid: str, result: StoredResult, dropped: Collection[str]) -> None:
        """Replace a queued command by its result."""
        self.write(
            _unqueued(udid, command_uuid),
            (
                "INSERT OR REPLACE INTO results (udid, command_uuid, status, body) VALUES (?, ?, ?, ?)",
                (udid, command_uuid, result.status, result.body),
            ),
            *(("DELETE FROM results WHERE udid = ? AND command_uuid = ?", (udid, each)) for each in dropped),
        )

    # The file.

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a SELECT. Raises OperatorError."""
        return self._file.rows(statement, *values)

    def write(self, *statements: Statement) -> None:
        """Execute the statements in one transaction. Raises Refused."""
        try:
            self._file.write(statements, durable=False)
        except NotWritten as error:
            raise Refused(503, f"the lab cannot write its state: {error}") from error

    def reading(self, read: Callable[[], Read]) -> Read:
        """The result of ``read``. Raises OperatorError if the file is locked, or is not a lab's state."""
        return self._file.reading(read)

    def _macs(self) -> list[EnrolledMac]:
        macs: dict[str, EnrolledMac] = {}
        for udid, fingerprint, announcement, token, push_magic, bootstrap_token, status_report in self._file.rows(
            "SELECT * FROM macs ORDER BY rowid"
        ):
            macs[udid] = EnrolledMac(
                udid=udid,
                fingerprint=fingerprint,
                announcement=plists.load_dict(announcement),
                token=token,
                push_magic=push_magic,
                bootstrap_token=bootstrap_token,
                status_report=status_report,
            )
        for udid, command_uuid, request_type, body in self._file.rows(
            "SELECT udid, command_uuid, request_type, body FROM commands ORDER BY number"
        ):
            macs[udid].queue[command_uuid] = QueuedCommand(request_type, body)
        for udid, command_uuid, status, body in self._file.rows(
            "SELECT udid, command_uuid, status, body FROM results ORDER BY number"
        ):
            macs[udid].results[command_uuid] = StoredResult(status, body)
        return list(macs.values())


class _StoredChallenges(MutableSet[str]):
    """The unused SCEP challenges."""

    def __init__(self, store: LabStore) -> None:
        self._store = store
        self._challenges = {challenge for (challenge,) in store.rows("SELECT challenge FROM challenges")}

    def __contains__(self, challenge: object) -> bool:
        return challenge in self._challenges

    def __iter__(self) -> Iterator[str]:
        return iter(self._challenges)

    def __len__(self) -> int:
        return len(self._challenges)

    def add(self, challenge: str) -> None:
        """Store a challenge."""
        self._store.write(("INSERT OR IGNORE INTO challenges VALUES (?)", (challenge,)))
        self._challenges.add(challenge)

    def discard(self, challenge: str) -> None:
        """Delete a challenge."""
        self._store.write(("DELETE FROM challenges WHERE challenge = ?", (challenge,)))
        self._challenges.discard(challenge)


def _forgotten(udid: str) -> list[Statement]:
    return [(f"DELETE FROM {table} WHERE udid = ?", (udid,)) for table in ("macs", "commands", "results")]  # noqa: S608


def _unqueued(udid: str, command_uuid: str) -> Statement:
    return "DELETE FROM commands WHERE udid = ? AND command_uuid = ?", (udid, command_uuid)
