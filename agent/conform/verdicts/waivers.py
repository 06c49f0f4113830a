"""The file of expected failures: for each the id of the requirement, the reason, an issue, and until when it holds.

```toml
[[waiver]]
id = "MDM-SESSION-07"
reason = "NotNow is not offered again before the next push."
issue = "https://mdm.example/issues/12"
until = 2027-03-31
```

An expected failure that does not happen fails the run too. ``until`` is the last day on which a waiver holds.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.errors import OperatorError
from agent.files import read_file

MOST_BYTES = 1024 * 1024


class Waiver(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One expected failure."""

    id: str
    reason: Annotated[str, Meta(min_length=1)]
    issue: str = ""
    until: date | None = None
    """The last day on which it holds; None: until it is removed."""


class _File(Struct, forbid_unknown_fields=True):
    waiver: tuple[Waiver, ...] = ()


def read_waivers(path: str | Path, known: Iterable[str]) -> tuple[Waiver, ...]:
    """The waivers in a file; ``known`` are the ids of all requirements. Raises OperatorError."""
    octets = read_file(path, "the waivers", MOST_BYTES)
    try:
        found = msgspec.convert(tomllib.loads(octets.decode()), _File).waiver
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise OperatorError(f"the waivers {path} cannot be read: {error}") from error
    ids = set(known)
    for waiver in found:
        if waiver.id not in ids:
            raise OperatorError(
                f"Expected the id of a requirement in the waivers {path}, found {waiver.id[:80]!r}. "
                "`lom-agent conform --list` shows the ids."
            )
    if len({waiver.id for waiver in found}) < len(found):
        raise OperatorError(f"Expected one waiver for each id in {path}, found two for the same.")
    return found


def waivers_text(ids_and_reasons: Sequence[tuple[str, str]], until: date) -> str:
    """Entries for these failures, as TOML."""
    entries = [
        f'[[waiver]]\nid = {json.dumps(id_)}\nreason = {_quoted(reason)}\nissue = ""\nuntil = {until.isoformat()}\n'
        for id_, reason in ids_and_reasons
    ]
    return "\n".join(entries)


def _quoted(text: str) -> str:
    """A basic string of TOML: as in JSON, but U+007F is escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
