"""Files that hold a secret: nobody but their owner can read them, from their first byte on."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import OperatorError


def write_secret(path: Path, octets: bytes) -> None:
    """Write a file of mode 0600, in place of one that is there. Raises OperatorError."""
    try:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}") from error
