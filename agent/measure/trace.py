"""The trace: one JSON line per exchange of a run, for people and other programs to read afterwards.

`TraceFile` receives every exchange as one record (`agent.measure.records`) and writes it. Each worker writes its part;
`TraceParts` merges the parts at the end. With `several` one run feeds a trace and metrics.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from agent.errors import MisuseError, OperatorError
from agent.files import open_private
from agent.measure.records import Exchange, Observer


class TraceParts:
    """The parts of the trace at ``path``, one per worker. Without a path there is no trace."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._parts: list[Path] = []
        if self._path is not None:
            open_private(self._path).close()  # fails now rather than at the end of the run

    def path_of(self, shard: int) -> str | None:
        """The path of this shard's part."""
        if self._path is None:
            return None
        part = self._path.with_name(f"{self._path.name}.{shard}")
        self._parts.append(part)
        return str(part)

    def give_up(self) -> None:
        """Remove the parts: the run did not start."""
        for part in self._parts:
            part.unlink(missing_ok=True)

    def join(self) -> Path | None:
        """Merge the parts into one file and remove them; return the file. Raises OperatorError."""
        if self._path is None:
            return None
        try:
            with ExitStack() as files, open_private(self._path) as whole:
                parts = [files.enter_context(part.open("rb")) for part in self._parts if part.exists()]
                for line in heapq.merge(*map(_in_order, parts), key=_time):
                    whole.write(line)
            for part in self._parts:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise OperatorError(
                f"The trace {self._path} could not be merged from its parts: {error.strerror or error}. "
                f"Its parts are in {self._path}.0 and so on."
            ) from error
        return self._path


def _in_order(part: BinaryIO) -> list[bytes]:
    """The lines of a part, sorted by time: they were written in the order in which exchanges ended."""
    return sorted((line for line in part if line.endswith(b"\n")), key=_time)


def _time(line: bytes) -> str:
    """When the exchange of a line was due; empty for an incomplete line."""
    begin = line.find(b'"time":"')
    return line[begin + 8 : begin + 32].decode("ascii", "replace")


_OWN_KEYS = frozenset({"time", "operation", "device", "ms", "key_wait_ms", "ok", "error", "cut_short"})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# Characters that JSON allows in a string, but that some readers treat as the end of a line (U+0085, U+2028, U+2029),
# terminals as a command (the C1 controls), or that UTF-8 cannot encode (lone surrogates).
_DEL = "\x7f"  # the only one of them in ASCII
_TROUBLESOME = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TraceFile:
    """The observer that writes the trace: JSON Lines in UTF-8, readable for the owner only.

    A line has ``time`` (when the exchange was due; RFC 3339, UTC, ms), ``operation``, ``device``, ``ms`` (from then
    to its end), ``key_wait_ms`` where it waited for an RSA key, which ``ms`` leaves out, ``ok``, ``error`` (``kind``
    and ``message``) if it failed or ``cut_short`` with the reason if this program ended it, then the facts, in this
    order. A fact with the name of one of these keys gets the prefix ``fact_``. A non-finite number becomes null.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Create or truncate the file at ``path``. Raises OperatorError if it cannot be opened."""
        self._path = Path(path)
        self._file = open_private(self._path)
        self._broken: OSError | None = None

    def __call__(self, exchange: Exchange) -> None:
        """Write one line, through a buffer.

        A full disk must not disturb the run: after the first write that fails nothing more is written, and ``close``
        raises. Raises MisuseError after ``close``.
        """
        if self._file.closed:
            raise MisuseError(f"Expected no exchange after the trace {self._path} was closed, found one.")
        if self._broken is None:
            try:
                self._file.write(_line(exchange))
            except OSError as error:
                self._broken = error

    def flush(self) -> None:
        """Write the buffer to the file, so that it is complete even if this process is killed."""
        if self._broken is None and not self._file.closed:
            try:
                self._file.flush()
            except OSError as error:
                self._broken = error

    def close(self) -> None:
        """Write the buffer and close the file; a second call does nothing.

        Raises OperatorError if not every line could be written; the file is closed in any case.
        """
        if self._file.closed:
            return
        try:
            self._file.close()
        except OSError as error:
            self._broken = self._broken or error
        if self._broken is not None:
            raise OperatorError(
                f"The trace {self._path} is incomplete: {self._broken.strerror}. Make room or name another file."
            ) from self._broken


def several(*observers: Observer) -> Observer:
    """One observer that calls ``observers`` in turn; an exception of one is raised and skips the rest."""

    def tell(exchange: Exchange) -> None:
        for observer in observers:
            observer(exchange)

    return tell


def rfc3339(moment: datetime) -> str:
    """``moment`` (aware) as RFC 3339 text in UTC with ms, like ``2026-01-31T12:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def rfc3339_of(seconds: float) -> str:
    """A date in seconds since the epoch as ``rfc3339``."""
    return rfc3339(datetime.fromtimestamp(seconds, UTC))


def _line(exchange: Exchange) -> bytes:
    entry: dict[str, object] = {
        "time": rfc3339_of(exchange.started),
        "operation": exchange.operation,
        "device": exchange.device,
        "ms": round(exchange.seconds * 1000.0, 3),
    }
    if exchange.key_wait:
        entry["key_wait_ms"] = round(exchange.key_wait * 1000.0, 3)
    entry["ok"] = exchange.failure is None and exchange.cut_short is None
    if exchange.cut_short is not None:
        entry["cut_short"] = exchange.cut_short
    elif exchange.failure is not None:
        entry["error"] = {"kind": exchange.failure.kind, "message": exchange.failure.message}
    for name, fact in exchange.facts.items():
        entry[f"fact_{name}" if name in _OWN_KEYS else name] = fact
    try:
        text = _encode(entry)
    except ValueError:
        text = _encode({name: _finite(each) for name, each in entry.items()})
    if not text.isascii() or _DEL in text:
        text = _TROUBLESOME.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode() + b"\n"


def _finite(number: object) -> object:
    return None if isinstance(number, float) and not math.isfinite(number) else number
