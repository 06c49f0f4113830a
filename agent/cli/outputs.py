"""Folders and files for results: made or tried before a command starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from agent.errors import OperatorError


def make_folder(out: str) -> None:
    """Make a folder before the run, so that its results can be written. Raises OperatorError."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"the folder {out} for the results cannot be made: {error.strerror}") from error


def check_file(path: str) -> None:
    """Check before the run that a file can be written, and make its folder; an existing file is left unchanged.

    Raises OperatorError.
    """
    target = Path(path).absolute()
    make_folder(str(target.parent))
    if target.is_dir():
        raise OperatorError(f"{path} cannot be written: it is a folder. Name a file.")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written: {error.strerror}. Name a file in a folder that you may write to."
        ) from error
