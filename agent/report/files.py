"""Files that are written whole or not at all; those with a secret are private to their owner from the first byte on."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import OperatorError


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
