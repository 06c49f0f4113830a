"""Folders and files for results: made or tried before a command starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from agent.errors import OperatorError
from agent.files import is_device_or_pipe
from agent.unix import fcntl

_held: list[int] = []  # descriptors


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
    if is_device_or_pipe(target):
        return
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written: {error.strerror}. Name a file in a folder that you may write to."
        ) from error


def check_different(files: Iterable[tuple[str, str]]) -> None:
    """Check that no two results go to one file; ``files`` are pairs of what it is and its path.

    Raises OperatorError.
    """
    seen: dict[Path, str] = {}
    for what, path in files:
        target = Path(path).resolve()
        if target in seen and not is_device_or_pipe(target):
            raise OperatorError(
                f"Expected a file of its own for {what}, found {path}, the file of {seen[target]}. Name another one."
            )
        seen[target] = what


def hold(path: str, what: str, flags: int = os.O_RDONLY) -> None:
    """Hold ``path``, the ``what`` of this run, until this process ends, so that no other run writes there meanwhile.

    Raises OperatorError where another run holds it.
    """
    if fcntl is None or is_device_or_pipe(Path(path)):
        return
    try:
        descriptor = os.open(path, flags, 0o600)  # never closed in this process: that would let go of it
        if not _held:
            os.register_at_fork(after_in_child=_let_go)
        _held.append(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OperatorError(
            f"Expected a {what} that no other run uses, found {path}, to which another run is writing. "
            f"Wait until it has ended, or name another {what}."
        ) from None
    except OSError:  # a file system without locks, or a path that is refused when it is opened for writing
        return


def _let_go() -> None:
    """A forked process holds nothing: it may live for a moment longer than this one."""
    while _held:
        os.close(_held.pop())


def remove_old(path: str) -> None:
    """Remove the file that an earlier run left at ``path``. Raises OperatorError."""
    file = Path(path)
    if is_device_or_pipe(file):
        return
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise OperatorError(f"{path} of an earlier run cannot be removed: {error.strerror}. Remove it.") from error
