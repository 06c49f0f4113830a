"""A SQLite file of this program: its lock, its mode, its versions and migrations."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.errors import OperatorError
from agent.sqlite_file import FileFormat, NotWritten, SQLiteFile

FIRST = FileFormat(
    what="the list of names",
    in_use="Expected a file that no other process uses, found {path} in use.",
    application=0x6C6F6D00,
    version=1,
    tables="CREATE TABLE names (name TEXT PRIMARY KEY);",
)
THIRD = replace(
    FIRST,
    version=3,
    tables="CREATE TABLE people (name TEXT PRIMARY KEY, age INTEGER NOT NULL DEFAULT 7);",
    migrations={
        1: "ALTER TABLE names RENAME TO people;",
        2: "ALTER TABLE people ADD COLUMN age INTEGER NOT NULL DEFAULT 7;",
    },
)
HOLDER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from test_sqlite_file import FIRST
from agent.sqlite_file import SQLiteFile
file = SQLiteFile(Path(sys.argv[1]), FIRST)
print("open", flush=True)
sys.stdin.read()
"""


def written(path: Path) -> None:
    with closing(SQLiteFile(path, FIRST)) as file:
        file.write([("INSERT INTO names VALUES (?)", ("Ada",)), ("INSERT INTO names VALUES (?)", ("Bob",))])


def test_what_was_written_is_there_again_and_private(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite"
    with closing(SQLiteFile(path, FIRST)) as file:
        file.write([("INSERT INTO names VALUES (?)", ("Ada",))], durable=False)
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    with closing(SQLiteFile(path, FIRST)) as file:
        assert file.rows("SELECT name FROM names") == [("Ada",)]


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite"
    written(path)
    with closing(SQLiteFile(path, FIRST)) as file:
        with pytest.raises(NotWritten, match=r"names\.sqlite, cannot be written: UNIQUE.*start again"):
            file.write([("INSERT INTO names VALUES ('Cy')", ()), ("INSERT INTO names VALUES ('Ada')", ())])
        assert file.rows("SELECT name FROM names ORDER BY name") == [("Ada",), ("Bob",)]


def test_another_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite"
    line = [sys.executable, "-c", HOLDER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(OperatorError, match=r"no other process uses, found .*names\.sqlite in use"):
            SQLiteFile(path, FIRST)
        holder.communicate("")
    SQLiteFile(path, FIRST).close()


def test_an_older_file_is_migrated_after_a_copy(tmp_path: Path) -> None:
    path, backup = tmp_path / "names.sqlite", tmp_path / "names.sqlite.v1-backup"
    written(path)
    with closing(SQLiteFile(path, THIRD)) as file:
        assert file.rows("SELECT name, age FROM people ORDER BY name") == [("Ada", 7), ("Bob", 7)]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(SQLiteFile(backup, FIRST)) as copy:
        assert copy.rows("SELECT name FROM names ORDER BY name") == [("Ada",), ("Bob",)]
    with closing(SQLiteFile(path, THIRD)) as file:  # and not again
        assert file.rows("SELECT count(*) FROM people") == [(2,)]


def test_a_migration_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite"
    written(path)
    broken = replace(THIRD, migrations={**THIRD.migrations, 2: "ALTER TABLE nobody ADD COLUMN age INTEGER;"})
    with pytest.raises(OperatorError, match="nobody"):
        SQLiteFile(path, broken)
    with closing(SQLiteFile(path, FIRST)) as file:
        assert file.rows("SELECT count(*) FROM names") == [(2,)]


def test_a_newer_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite"
    SQLiteFile(path, THIRD).close()
    with pytest.raises(OperatorError, match=r"version 1 or older in .*, found version 3\. Use the version of"):
        SQLiteFile(path, FIRST)


@pytest.mark.parametrize("other", [replace(FIRST, application=1), replace(FIRST, version=0)])
def test_another_file_is_refused(tmp_path: Path, other: FileFormat) -> None:
    path = tmp_path / "names.sqlite"
    SQLiteFile(path, other).close()
    with pytest.raises(OperatorError, match=r"Expected the list of names in .*, found something else"):
        SQLiteFile(path, FIRST)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(OperatorError, match="Move the file away"):
        SQLiteFile(path, FIRST)
    with pytest.raises(OperatorError, match="cannot be opened"):
        SQLiteFile(tmp_path / "nowhere" / "names.sqlite", FIRST)
    with closing(sqlite3.connect(tmp_path / "other")) as base:
        base.execute("CREATE TABLE names (name)")
        base.commit()
    with pytest.raises(OperatorError, match="found something else: application 0x0"):
        SQLiteFile(tmp_path / "other", FIRST)
