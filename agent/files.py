"""Files that are written whole or not at all; those with a secret are private to their owner from the first byte on."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from agent.errors import OperatorError

BUFFER_BYTES = 64 * 1024


def open_private(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                # A file that was there keeps its mode and its bytes when opened. Close it to others before the first
                # line is in it; a pipe or /dev/null is not ours to change.
                os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, 0)
            return os.fdopen(descriptor, "wb", buffering=BUFFER_BYTES)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OperatorError(
            f"The trace file {path} cannot be opened for writing: {reason}. Name a file in a directory that is "
            "there and that you may write to."
        ) from error


def write_secret(path: Path, octets: bytes) -> None:
    """Write a file of mode 0600, in place of one that is there. Raises OperatorError."""
    write_whole(path, octets, mode=0o600)


def write_whole(path: Path, octets: bytes, *, mode: int = 0o644) -> None:
    """Write a file, in place of one that is there: whoever reads it finds the old one or the new one, whole.

    Raises OperatorError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a process that was killed
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
        part.replace(path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}") from error
