"""Runs one worker of a run for ``lom-agent worker``."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from agent.cli.signals import STANDARD_ERROR, Stopping, printing
from agent.errors import OperatorError
from agent.load.control.joining import MOST_BYTES, Invitation, decoded, read_join_file
from agent.load.shard.plan import ShardPlan
from agent.load.shard.running import run_shard
from agent.net.transport.addresses import address_text

STANDARD_INPUT = "-"
LOOK_SECONDS = 0.25
CONNECT_SECONDS = 5.0


def work(join_file: str, connect: str | None, shard: int | None, wait: float) -> int:
    """Run the worker; the exit status. Raises OperatorError."""
    with Stopping() as stopping:
        until = time.monotonic() + wait
        invitation = _invitation(join_file, connect, shard, until, stopping)
        _wait_for(invitation, until, stopping)
        stopped = _stopped(stopping)
        if stopped is not None:
            return stopped
        end = run_shard(invitation, _Watch(stopping))
        stopping.done()
        if end.problem is not None:
            with printing(STANDARD_ERROR):
                click.echo(f"lom-agent: {end.problem}", err=True)
        else:
            with printing():
                click.echo("The run has ended.")
        stopped = _stopped(stopping)
        if stopped is not None:
            return stopped
        return 2 if not end.joined else 0 if end.problem is None else 1


def _stopped(stopping: Stopping) -> int | None:
    """The exit status of a command that a signal ends."""
    return None if stopping.number is None else 128 + stopping.number


class _Watch:
    """Tells the operator what becomes of the worker, and ends it at a signal."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping

    def joined(self, plan: ShardPlan) -> None:
        """The shard has its plan."""
        with printing():
            click.echo(f"Joined as worker {plan.shard} of {plan.shards}, with Macs {plan.first} to {plan.stop - 1}.")

    def stoppable(self, stop: Callable[[str], None]) -> None:
        """The shard runs."""

        def interrupt() -> None:
            number = self._stopping.number
            stop(f"the worker was stopped by {'a signal' if number is None else signal.Signals(number).name}")

        self._stopping.call(interrupt)


def _invitation(join_file: str, connect: str | None, shard: int | None, until: float, stopping: Stopping) -> Invitation:
    if join_file == STANDARD_INPUT:
        octets = sys.stdin.buffer.read(MOST_BYTES)
        return decoded(octets, "standard input", connect=connect, shard=shard)
    while not Path(join_file).exists() and time.monotonic() < until and stopping.number is None:
        time.sleep(LOOK_SECONDS)
    if not Path(join_file).exists() and stopping.number is None:
        raise OperatorError(
            f"Expected the join file {join_file}, found none. Copy it from the machine of the run, which writes it "
            "when it listens, or wait longer (--wait)."
        )
    return read_join_file(join_file, connect=connect, shard=shard)


def _wait_for(invitation: Invitation, until: float, stopping: Stopping) -> None:
    """Return when the run listens. Raises OperatorError if it does not in time."""
    while stopping.number is None:
        try:
            socket.create_connection((invitation.host, invitation.port), CONNECT_SECONDS).close()
        except OSError as error:
            if time.monotonic() >= until:
                where = address_text(invitation.host, invitation.port)
                raise OperatorError(
                    f"Expected a run that listens at {where}, found none: {error.strerror or error}. "
                    "Look at --connect, and whether a firewall is in between."
                ) from error
            time.sleep(LOOK_SECONDS)
        else:
            return
