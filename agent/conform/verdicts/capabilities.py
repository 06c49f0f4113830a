"""What the server does not have, so that some requirements are not applicable: ``[capabilities] ddm = false``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.errors import OperatorError
from agent.files import read_file

MOST_BYTES = 64 * 1024


class _File(Struct, forbid_unknown_fields=True):
    capabilities: dict[str, bool] = {}


def read_capabilities(path: str | Path, known: Iterable[str]) -> dict[str, bool]:
    """The capabilities in a file. Raises OperatorError, also for one that no requirement needs."""
    octets = read_file(path, "the capabilities", MOST_BYTES)
    try:
        found = msgspec.convert(tomllib.loads(octets.decode()), _File).capabilities
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise OperatorError(f"the capabilities {path} cannot be read: {error}") from error
    names = sorted(set(known))
    for name in found:
        if name not in names:
            raise OperatorError(
                f"Expected a capability of {', '.join(names) or 'none'} in {path}, found {name[:80]!r}. Remove it."
            )
    return found
