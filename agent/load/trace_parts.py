"""The trace of a run with several workers: each writes a part, and at the end they become one file in order of time."""

from __future__ import annotations

import heapq
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from agent.errors import OperatorError
from agent.load.trace import open_private


class TraceParts:
    """The parts of the trace at ``path``, or of none."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._parts: list[Path] = []
        if self._path is not None:
            open_private(self._path).close()  # so that it is known now whether it can be written

    def path_of(self, shard: int) -> str | None:
        """Where this shard writes."""
        if self._path is None:
            return None
        part = self._path.with_name(f"{self._path.name}.{shard}")
        self._parts.append(part)
        return str(part)

    def give_up(self) -> None:
        """Remove the parts: the run did not begin."""
        for part in self._parts:
            part.unlink(missing_ok=True)

    def join(self) -> Path | None:
        """Make one file of the parts, and remove them; returns the file. Raises OperatorError."""
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
                f"The trace {self._path} could not be put together: {error.strerror or error}. "
                f"Its parts are in {self._path}.0 and so on."
            ) from error
        return self._path


def _in_order(part: BinaryIO) -> list[bytes]:
    """The lines of a part, sorted: they come in the order in which exchanges ended."""
    return sorted((line for line in part if line.endswith(b"\n")), key=_time)


def _time(line: bytes) -> str:
    """When the exchange of a line was due; a line that was cut off has none."""
    begin = line.find(b'"time":"')
    return line[begin + 8 : begin + 32].decode("ascii", "replace")
