"""The identities of ``lom-device`` and ``lom-request``, from files or a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from agent.fleet.population import DEFAULT_SEED
from agent.lom.endpoint import LinkSide
from agent.net.transport.anchors import read_anchors, read_identity


class Source(msgspec.Struct, frozen=True):
    """The identity of one end from files, or the seed of both ends; the other field is None."""

    seed: str | None
    side: LinkSide | None


def source_of(options: Mapping[str, Any], *with_seed: str) -> Source:
    """The source in ``options``; those ``with_seed`` are refused with files. Raises UsageError and OperatorError."""
    files = {f"--{name}": options[name] for name in ("cert", "key", "ca")}
    if not any(files.values()):
        seed = options["seed"]
        return Source(DEFAULT_SEED if seed is None else seed, None)
    if options["seed"] is not None:
        raise click.UsageError("--seed derives identities, --cert, --key and --ca read them: give one or the other")
    missing = [name for name, value in files.items() if not value]
    if missing:
        raise click.UsageError(f"Expected --cert, --key and --ca together, found no {' and no '.join(missing)}.")
    for name in with_seed:
        if options[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --seed: with files, the identity is in them")
    return Source(None, _read_side(options["cert"], options["key"], options["ca"]))


def _read_side(cert: str, key: str, ca: tuple[str, ...]) -> LinkSide:
    return LinkSide(read_identity(cert, key), read_anchors(ca))
