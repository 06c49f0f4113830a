"""Where the LOM commands take their identities from: files, or a seed. Both ends have the same options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from agent.fleet.population import DEFAULT_SEED
from agent.lom.endpoint import LinkSide
from agent.net.transport.anchors import read_anchors, read_identity

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one end, or the seed of both: one of them is set."""

    seed: str | None
    side: LinkSide | None


def identity_options(ours: str, peers: str) -> Callable[[Command], Command]:
    """The options of an end that is ``ours`` and judges ``peers``; ``source_of`` reads what was given."""
    file = click.Path(dir_okay=False)

    def decorate(command: Command) -> Command:
        for option in (
            click.option(
                "--seed",
                metavar="TEXT",
                help="Identities made from this text, the same in every process: for trials. Who knows the text has "
                f"every key.  [default, without files: {DEFAULT_SEED}]",
            ),
            click.option(
                "--ca",
                multiple=True,
                type=file,
                metavar="FILE",
                help=f"A CA certificate that judges {peers} (PEM or DER). Repeatable.",
            ),
            click.option("--key", type=file, metavar="FILE", help="The private key of --cert (PEM, not encrypted)."),
            click.option(
                "--cert", type=file, metavar="FILE", help=f"The {ours}'s certificate (PEM), then its intermediates."
            ),
        ):
            command = option(command)
        return command

    return decorate


def source_of(options: Mapping[str, Any], *with_seed: str) -> Source:
    """What ``options`` say; those ``with_seed`` mean nothing beside files. Raises UsageError and OperatorError."""
    files = {f"--{name}": options[name] for name in ("cert", "key", "ca")}
    if not any(files.values()):
        seed = options["seed"]
        return Source(DEFAULT_SEED if seed is None else seed, None)
    if options["seed"] is not None:
        raise click.UsageError("--seed makes identities, --cert, --key and --ca read them: give one or the other")
    missing = [name for name, value in files.items() if not value]
    if missing:
        raise click.UsageError(f"--cert, --key and --ca go together; {' and '.join(missing)} is missing")
    for name in with_seed:
        if options[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --seed: the files say who this is")
    return Source(None, _read_side(options["cert"], options["key"], options["ca"]))


def _read_side(cert: str, key: str, ca: tuple[str, ...]) -> LinkSide:
    return LinkSide(read_identity(cert, key), read_anchors(ca))
