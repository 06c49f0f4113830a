"""Files that the operator names: bounded reads, atomic writes, and files that only their owner can read.

Every error is an OperatorError with the file's path and the system's reason.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from agent.errors import OperatorError

BUFFER_BYTES = 64 * 1024
_STANDARD = {"stdout": 1, "stderr": 2}
_DESCRIPTOR = re.compile(r"/dev/(?P<name>stdout|stderr)|/(?:dev|proc/self)/fd/(?P<number>[0-9]{1,4})")


def read_file(path: str | os.PathLike[str], what: str, most: int, *, advice: str = "") -> bytes:
    """The content of a file of at most ``most`` bytes.

    ``what`` names it in the error ("the scenario"), ``advice`` is a sentence for one that is longer.
    Raises OperatorError.
    """
    try:
        with open(path, "rb") as file:
            octets = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise OperatorError(f"{what} {path} cannot be read: {_reason(error)}") from error
    if len(octets) > most:
        raise OperatorError(f"Expected at most {most:,} bytes in {what} {path}, found more. {advice}".rstrip())
    return octets


def write_file(path: Path, octets: bytes, *, private: bool = False, make_folder: bool = False) -> Path:
    """Write a file, in place of one with this name, and return its path.

    A reader finds the old file or the new one, never a part; an attempt that fails leaves nothing behind. A
    ``private`` file has the mode 0600. ``make_folder`` makes the folders above it that are missing. A device or a pipe,
    such as /dev/null, is not replaced: the bytes are written to it.
    Raises OperatorError.
    """
    if is_device_or_pipe(path):
        return _write_to(path, octets)
    # In the same folder, because a file replaces another only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"{path} cannot be written: {_reason(error)}. Name a file in a folder that you may write to."
        ) from error
    return path


def is_device_or_pipe(path: Path) -> bool:
    """Whether there is something at ``path`` that is neither a file nor a folder, or it is a descriptor's name."""
    if _descriptor_of(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # missing, or found out by whoever opens it
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor_of(path: Path) -> int | None:
    """The descriptor of this process that ``path`` names, such as /dev/stdout; None: it names none.

    It may be that of a file. That file is written to from where the descriptor is, and is not replaced or emptied.
    """
    found = _DESCRIPTOR.fullmatch(str(path))
    if found is None:
        return None
    return _STANDARD[found["name"]] if found["name"] else int(found["number"])


def _write_to(path: Path, octets: bytes) -> Path:
    number = _descriptor_of(path)
    try:
        if number is None:
            # Without O_NONBLOCK a named pipe would be waited for until somebody reads it.
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
        else:
            descriptor = os.dup(number)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {_reason(error)}. Name a file.") from error
    return path


def open_private(path: Path) -> BinaryIO:
    """Open the trace file at ``path``, empty and with the mode 0600, for buffered writing. Raises OperatorError."""
    number = _descriptor_of(path)
    try:
        if number is not None:
            return os.fdopen(os.dup(number), "wb", buffering=BUFFER_BYTES)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                # An existing file keeps its mode and its bytes when it is opened: close it to other users before the
                # first line is written. A pipe or /dev/null keeps its mode.
                os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, 0)
            return os.fdopen(descriptor, "wb", buffering=BUFFER_BYTES)
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"The trace file {path} cannot be opened for writing: {_reason(error)}. Name a file in a directory that "
            "exists and that you may write to."
        ) from error


def _reason(error: OSError | ValueError) -> str:
    """What the system says; a ValueError is a path with a null character in it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
