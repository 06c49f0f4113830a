"""The trace of a shard on another machine: a file there, sent over the control link when the shard ends.

It is bounded: the conductor's machine has the trace of every shard.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from agent.errors import OperatorError
from agent.files import open_private
from agent.load.control.messages import ControlError, Message, TracePiece
from agent.load.shard.plan import ShardPlan

PIECE_BYTES = 256 * 1024
MOST_TRACE_BYTES = 1024 * 1024 * 1024  # of one shard: some three million operations


def own_trace(plan: ShardPlan) -> ShardPlan:
    """The plan of a shard that sends its trace to the conductor, with a new file for it. Raises OperatorError."""
    if not plan.trace_home:
        return plan
    try:
        descriptor, path = tempfile.mkstemp(prefix="lom-agent-trace-")
    except OSError as error:
        raise OperatorError(
            f"Expected a folder for the trace, found none that can be written to: {error.strerror}. Set TMPDIR."
        ) from error
    os.close(descriptor)
    return replace(plan, trace=path)


async def send_trace(plan: ShardPlan, deliver: Callable[[Message], Awaitable[None]]) -> str | None:
    """Send the trace, one piece after the other; what is wrong with it. Raises PeerError if the link is lost."""
    if not plan.trace_home or plan.trace is None:
        return None
    sent = 0
    try:
        with open(plan.trace, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                if sent + len(piece) > MOST_TRACE_BYTES:
                    whole = os.fstat(file.fileno()).st_size
                    return f"its trace has {whole:,} bytes; only the first {sent:,} are sent. Use shorter runs."
                await deliver(TracePiece(piece))
                sent += len(piece)
    except OSError as error:
        return f"its trace could not be read: {error.strerror}"
    return None


def remove_trace(plan: ShardPlan) -> None:
    """Remove the file: the conductor has it, or nobody can receive it."""
    if plan.trace_home and plan.trace is not None:
        Path(plan.trace).unlink(missing_ok=True)


class TraceHome:
    """The conductor's end: writes what each shard sends to the file that ``path_of`` names; None: there is no trace."""

    def __init__(self, path_of: Callable[[int], str | None] | None) -> None:
        self._path_of = path_of
        self._files: dict[int, BinaryIO] = {}
        self._sizes: dict[int, int] = {}

    def add(self, shard: int, octets: bytes) -> str | None:
        """Write a piece; what is wrong with it. Raises ControlError for bytes beyond what was agreed."""
        size = self._sizes[shard] = self._sizes.get(shard, 0) + len(octets)
        if size > MOST_TRACE_BYTES:
            raise ControlError(f"Expected at most {MOST_TRACE_BYTES:,} bytes of trace from a worker, found more.")
        try:
            if shard not in self._files:
                path = None if self._path_of is None else self._path_of(shard)
                if path is None:
                    raise ControlError("Expected no trace on the control link, found one.")
                self._files[shard] = open_private(Path(path))
            self._files[shard].write(octets)
        except (OSError, OperatorError) as error:
            return f"the trace of worker {shard} is incomplete: {getattr(error, 'strerror', None) or error}"
        return None

    def close(self) -> list[str]:
        """Close the files; what is wrong with them."""
        problems = []
        for shard, file in self._files.items():
            try:
                file.close()
            except OSError as error:
                problems.append(f"the trace of worker {shard} is incomplete: {error.strerror}")
        self._files = {}
        return problems
