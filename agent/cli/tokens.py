"""The token of a control API, in a file or new."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agent.errors import OperatorError
from agent.files import read_file, write_file

MAX_TOKEN_BYTES = 1024


def control_token(file: str | None) -> str:
    """The token in this file, or a new one, which is written to it. Raises OperatorError."""
    if file is not None and os.path.exists(file):
        token = read_file(file, "the token file", MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise OperatorError(f"Expected a token of printable ASCII in {file}, found none. Delete the file.")
        return token
    token = secrets.token_urlsafe(24)
    if file is not None:
        write_file(Path(file), token.encode("ascii") + b"\n", private=True)
    return token
