"""The CAs of a lab or of a run in a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from agent.pki.identity import Identity
from agent.pki.issuing.authority import Authority
from agent.sqlite_file import SQLiteFile

AUTHORITIES_TABLE = "CREATE TABLE authorities (name TEXT PRIMARY KEY, certificate BLOB NOT NULL, key BLOB NOT NULL);"


class KeptAuthorities(MutableMapping[str, Authority]):
    """The CAs in an open file, with their keys, by name: a store for ``Authorities``. Raises OperatorError."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Authority:
        rows = self._file.rows("SELECT certificate, key FROM authorities WHERE name = ?", name)
        if not rows:
            raise KeyError(name)
        return self._file.reading(lambda: _authority(*rows[0]))

    def __setitem__(self, name: str, authority: Authority) -> None:
        values = (name, *authority.identity.octets)
        self._file.write([("INSERT OR REPLACE INTO authorities VALUES (?, ?, ?)", values)], durable=False)

    def __delitem__(self, name: str) -> None:
        self._file.write([("DELETE FROM authorities WHERE name = ?", (name,))], durable=False)

    def __iter__(self) -> Iterator[str]:
        return iter([name for (name,) in self._file.rows("SELECT name FROM authorities")])

    def __len__(self) -> int:
        return len(self._file.rows("SELECT name FROM authorities"))


def _authority(certificate: bytes, key: bytes) -> Authority:
    identity = Identity.of_octets(certificate, key)
    return Authority(Identity(identity.certificate, identity.key))
