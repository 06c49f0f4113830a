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
    help="The address of the run, which must be in its certificate (--advertise).  [default: that of the join file]",
)
@click.option(
    "--shard",
    type=click.IntRange(0),
    metavar="N",
    help="Be worker N, from 0. A second worker N is refused, so it is safe to start it again.  [default: the next that "
    "is missing]",
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
    """Join a run that was started on another machine, and run a part of its fleet here.

    Start the run there, "lom-agent run my.toml --listen 10.0.0.1:7700 --workers 4", and copy its join file, which
    contains a secret, to this machine. The worker gets everything else over the network: the scenario, the Macs, the
    secrets of the server. It sends its results back at the end. docs/distributed.md has examples.

    A worker that is lost is not replaced, and cannot join again, because its Macs would enroll twice.

    Exit status: 0 the run ended; 1 the worker could not go on; 2 it could not join.
    """
    check_unix()
    with importing():
        from agent.cli.worker.working import work
    sys.exit(work(join_file, connect, shard, wait))
