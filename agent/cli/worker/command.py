"""``lom-agent worker``: one worker of a run whose conductor is on another machine."""

from __future__ import annotations

import sys

import click

from agent.cli.signals import importing
from agent.unix import check_unix


@click.command()
@click.option(
    "--join-file",
    required=True,
    metavar="FILE",
    help='The join file that "lom-agent run --listen" wrote; -: standard input.',
)
@click.option(
    "--connect",
    metavar="ADDRESS:PORT",
    help="The address of the run; its certificate must have this name or address.  [default: that of the join file]",
)
@click.option(
    "--shard",
    type=click.IntRange(0),
    metavar="N",
    help="Be worker N, from 0, so that a launcher that starts it again does not start another one.  [default: the next "
    "that is missing]",
)
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the join file and for the run to listen.",
)
def worker(join_file: str, connect: str | None, shard: int | None, wait: float) -> None:
    """Join a run of another machine, and run a part of its fleet here.

    Start the run first, "lom-agent run my.toml --listen 10.0.0.1:7700 --workers 4", and copy its join file here: it has
    a secret. All else comes over the link: the scenario, the Macs, the secrets of the server. The results go back.

    A worker that is lost is not replaced, and cannot join again: its Macs would enroll twice.

    Exit status: 0 the run ended; 1 the worker could not go on; 2 it could not join.
    """
    check_unix()
    with importing():
        from agent.cli.worker.working import work
    sys.exit(work(join_file, connect, shard, wait))
