"""Options that several commands have, and what they check before they start."""

from __future__ import annotations

from pathlib import Path

import click

from agent.errors import OperatorError
from agent.fleet.population import DEFAULT_SEGMENT_SIZE

DEFAULT_SEED = "lom-agent"

seed_option = click.option(
    "--seed",
    default=DEFAULT_SEED,
    show_default=True,
    metavar="TEXT",
    help="Everything about the Macs follows from this text: the same seed makes the same fleet on any machine.",
)
segment_size_option = click.option(
    "--segment-size",
    type=click.IntRange(min=1),
    default=DEFAULT_SEGMENT_SIZE,
    show_default=True,
    metavar="N",
    help="Macs in one segment (subnet). The first of each is its LOM Controller.",
)


def make_folder(out: str) -> None:
    """Make a folder now, so that a run does not end without a place for its results. Raises OperatorError."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"the folder {out} for the results cannot be made: {error.strerror}") from error
