"""Options that several commands have, and what they check before they start."""

from __future__ import annotations

import tempfile
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


def check_file(path: str) -> None:
    """Whether a file can be written in the end, in place of one that is there; its folder is made.

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
