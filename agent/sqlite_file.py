"""A program's state in one SQLite file that only its owner can read and only one process at a time can open.

Its header says what it is and in which version. A file of an older version is migrated after a copy was made of it; one
of a newer version is refused. A transaction is in the file when ``write`` returns; with ``durable`` also after a power
failure of this machine.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.errors import OperatorError, PeerError

Read = TypeVar("Read")
Statement = tuple[str, tuple[Any, ...]]


class NotWritten(OperatorError):
    """The state cannot be written."""


class InUse(OperatorError):
    """Another process has the file open."""


class _NewerVersion(ValueError):
    """The file is of a later version of this program."""


class FileFormat(msgspec.Struct, frozen=True):
    """What a file holds."""

    what: str
    """In errors: "the state of a lab"."""
    in_use: str
    """The error where another process has the file open; ``{path}`` and ``{folder}`` are filled in."""
    application: int
    """In the header of the file."""
    version: int
    """Of ``tables``."""
    tables: str
    """The statements that make an empty file of this version, each with a semicolon."""
    migrations: Mapping[int, str] = msgspec.field(default_factory=dict)
    """The statements that make the next version of each older version."""
    instead: str = "Move the file away to start with an empty state."
    """In errors: what to do where the file holds something else."""


class SQLiteFile:
    """An open file. Raises OperatorError if it cannot be opened, or is not of this format."""

    def __init__(self, path: Path, format: FileFormat) -> None:  # noqa: A002 - the field's word
        self.path = path
        self._format = format
        self._durable: bool | None = None
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._base = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise OperatorError(f"{format.what}, {path}, cannot be opened: {error}") from error
        try:
            self.reading(self._prepare)
        except BaseException:
            self._base.close()
            raise

    def close(self) -> None:
        """Close the file, so that another process can open it."""
        self._base.close()

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a SELECT. Raises OperatorError."""
        return self.reading(lambda: self._base.execute(statement, values).fetchall())

    def write(self, statements: Iterable[Statement], *, durable: bool = True) -> None:
        """Execute the statements in one transaction. Raises NotWritten, and has then changed nothing."""
        try:
            self._set_durable(durable)
            with self._base:
                self._base.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    self._base.execute(statement, values)
        except sqlite3.Error as error:
            raise NotWritten(
                f"{self._format.what}, {self.path}, cannot be written: {error}. Make sure that the disk has space and "
                "that the file may be written, then start again: everything up to the last change is in the file."
            ) from error

    def reading(self, read: Callable[[], Read]) -> Read:
        """The result of ``read``. Raises OperatorError if the file is locked or does not hold what it should."""
        what, path = self._format.what, self.path
        try:
            return read()
        except _NewerVersion as error:
            raise OperatorError(
                f"Expected {what} in version {self._format.version} or older in {path}, found version {error}. Use the "
                "version of lom-agent that wrote it, or a later one, or name another file."
            ) from error
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:  # the upper bits are the extended code
                raise InUse(self._format.in_use.format(path=path, folder=path.parent)) from error
            raise OperatorError(f"{what}, {path}, cannot be read: {error}") from error
        except (sqlite3.Error, PeerError, ValueError, TypeError, LookupError) as error:
            raise OperatorError(
                f"Expected {what} in {path}, found something else: {error}. {self._format.instead}"
            ) from error

    def _set_durable(self, durable: bool) -> None:
        """In WAL mode, NORMAL keeps a transaction when the process is killed, FULL also when the machine stops."""
        if durable != self._durable:
            self._base.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _prepare(self) -> None:
        """Lock the file for this process; make the tables in a new file, migrate those of an older one."""
        base, form = self._base, self._format
        base.execute("PRAGMA locking_mode = EXCLUSIVE")
        base.execute("PRAGMA journal_mode = WAL")  # the log file gets the mode of the database
        self._set_durable(True)
        with base:
            base.execute("BEGIN EXCLUSIVE")  # fails if another process has the file open
            application, version = (self._header(name) for name in ("application_id", "user_version"))
            if not base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._become(form.version, form.tables)
                return
        if application != form.application:
            raise ValueError(f"application {application:#x}, version {version}")
        if version > form.version:
            raise _NewerVersion(version)
        if version < form.version:
            self._migrate(version)

    def _migrate(self, version: int) -> None:
        if not all(older in self._format.migrations for older in range(version, self._format.version)):
            raise ValueError(f"version {version}")
        self._copy_to(self.path.with_name(f"{self.path.name}.v{version}-backup"))
        with self._base:
            self._base.execute("BEGIN EXCLUSIVE")
            for older in range(version, self._format.version):
                self._become(older + 1, self._format.migrations[older])

    def _become(self, version: int, statements: str) -> None:
        for statement in statements.split(";"):
            self._base.execute(statement)
        self._base.execute(f"PRAGMA application_id = {self._format.application}")
        self._base.execute(f"PRAGMA user_version = {version}")

    def _copy_to(self, path: Path) -> None:
        """A whole copy under this name, or none."""
        part = path.with_name(f"{path.name}.part")
        try:
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
            with closing(sqlite3.connect(part)) as copy:
                self._base.backup(copy)
            part.replace(path)
        except OSError as error:
            raise OperatorError(f"the copy {path} cannot be made before the migration: {error}") from error

    def _header(self, name: str) -> int:
        return int(self._base.execute(f"PRAGMA {name}").fetchone()[0])
