"""What a shard costs the conductor: CPU of the conductor's process for each shard and second, for 1 to 64 shards.

The shards are in another process and only speak the control link: heartbeats, a report a second with 1,000 operations,
a snapshot of the metrics every five seconds, and the result. There is no Mac and no server. ``start`` is the time
between the decision to start a phase and its start in every shard, which the conductor derives from the round trips.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from multiprocessing.connection import Connection
from tempfile import NamedTemporaryFile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from agent.errors import PeerError
from agent.load.conductor.conductor import Conductor
from agent.load.control.joining import Invitation
from agent.load.control.link import ControlServer
from agent.load.control.messages import (
    Begin,
    Finish,
    Message,
    PhaseFinished,
    Ready,
    Result,
    Second,
    Settle,
    Settled,
    Snapshot,
)
from agent.load.control.messages import StartPhase as Start
from agent.load.shard.link import ShardLink
from agent.load.shard.plan import ShardResult, decode_plan, encode
from agent.load.shard.running import own_reactor
from agent.measure.live import LiveView, PhaseState
from agent.measure.metrics import Metrics
from agent.measure.records import Exchange
from agent.net.timing import make_monotonic
from agent.scenario.reading import scenario_from

SECONDS = 10.0
OPERATIONS = 1000  # in each second of a shard
KINDS = ("session", "checkin", "command", "delivery", "enqueue")
SNAPSHOT_SECONDS = 5


class FakeShard:
    """A shard without Macs."""

    def __init__(self, clock: Any, invitation: Invitation, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics.snapshot()
        self._row = {**metrics.take_second(), "macs": {"idle": 100}, "connections": 100}
        self._second = -1
        self._link = ShardLink(clock, invitation, self)
        self._reports = LoopingCall(self._report)
        self._reports.clock = clock
        self.ended: Deferred[None] = Deferred()
        self._shard = -1
        self._link.join().addCallback(self._joined)

    def _joined(self, octets: bytes) -> None:
        self._shard = decode_plan(octets).shard
        self._link.send(Ready())

    def message_received(self, message: Message) -> None:
        """The conductor sent a message."""
        match message:
            case Begin():
                self._reports.start(1.0, now=False)
            case Start(phase):
                self._clock.callLater(SECONDS, self._link.send, PhaseFinished(phase, PhaseState(finished=True)))
            case Settle():
                self._link.send(Settled())
            case Finish():
                Deferred.fromCoroutine(self._end())

    def link_lost(self, error: PeerError) -> None:
        """The conductor is gone."""
        raise error

    async def _end(self) -> None:
        self._reports.stop()
        await self._link.deliver(Result(encode(ShardResult(shard=self._shard, metrics=self._metrics))))
        self._link.close()
        self.ended.callback(None)

    def _report(self) -> None:
        self._second += 1
        self._link.send(Second(self._second, self._row, {0: PhaseState(planned=10**6, started=self._second)}))
        if self._second % SNAPSHOT_SECONDS == 0:
            self._link.send(Snapshot(self._metrics))


def shards(inbox: Connection) -> None:
    """The process of the shards: it receives their invitations."""
    clock = own_reactor()
    drawn = random.Random(1)

    def start() -> None:
        invitations: list[Invitation] = inbox.recv()
        left = [len(invitations)]

        def one_ended(_: object) -> None:
            left[0] -= 1
            if not left[0]:
                clock.stop()

        for invitation in invitations:
            metrics = Metrics()
            for number in range(OPERATIONS):
                metrics(Exchange(KINDS[number % len(KINDS)], number, time.time(), drawn.lognormvariate(-4.0, 1.0)))
            FakeShard(clock, invitation, metrics).ended.addCallback(one_ended)

    clock.callWhenRunning(start)
    clock.run(installSignalHandlers=False)


class FakeLauncher:
    """Starts all shards in one process."""

    elsewhere = True
    join_seconds: float | None = 120.0

    def __init__(self, number: int) -> None:
        self._number = number
        self._invitations: list[Invitation] = []
        self._inbox, outbox = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=shards, args=(outbox,))
        self.process.start()

    def open(self, *_: object) -> None:
        """Do nothing."""

    def launch(self, number: int, server: ControlServer) -> None:
        """Invite a shard; the process gets all invitations at once."""
        self._invitations.append(server.invite(number))
        if len(self._invitations) == self._number:
            self._inbox.send(self._invitations)

    def kill(self, _number: int) -> None:
        """Do nothing."""

    def too_few(self, *_: object) -> str:
        """The machine is too slow for this benchmark."""
        return "not every fake shard has joined"

    def close(self) -> None:
        """Do nothing."""


class Watch:
    """Notes the CPU time of this process when all have joined, and from the start of the phase on."""

    def __init__(self) -> None:
        self.joined: list[float] = []
        self.looks: list[tuple[float, float]] = []

    def note(self, text: str) -> None:
        """A worker has joined."""
        self.joined += [time.monotonic()] * text.startswith("Worker")

    def warn(self, text: str) -> None:
        """Nothing should go wrong."""
        print(text, file=sys.stderr)

    def look(self, _view: LiveView) -> None:
        """Every shard has reported a second."""
        self.looks.append((time.monotonic(), time.process_time()))


async def measure(number: int) -> None:
    """Print the row of so many shards."""
    with NamedTemporaryFile(suffix=".mobileconfig") as profile:
        scenario = scenario_from(
            {
                "fleet": {"devices": number, "segment_size": 1},
                "server": {"adapter": "none", "enroll": profile.name},
                "push": {"enabled": False},
                "phase": [{"kind": "idle", "seconds": SECONDS}],
            }
        )
        watch, launcher = Watch(), FakeLauncher(number)
        conductor = Conductor(make_monotonic(reactor), scenario, launcher, number, watch)
        await conductor.run()
        launcher.process.join()
    (first, before), (last, after) = watch.looks[0], watch.looks[-2]
    share = (after - before) / (last - first)
    started = conductor.phases[0].started_s or 0.0
    print(f"{number:>6} {1000 * share / number:>14.2f} {100 * share:>12.1f} {started * 1000:>10.0f}", flush=True)


async def main() -> None:
    """Print the table."""
    print("shards  ms CPU a shard   % of a core   start ms")
    for number in (1, 4, 16, 64):
        await measure(number)


def run(clock: Any) -> None:
    """Measure in this reactor."""

    def begin() -> None:
        Deferred.fromCoroutine(main()).addBoth(ended)

    def ended(outcome: object) -> None:
        if isinstance(outcome, Failure):
            print(outcome.getTraceback(), file=sys.stderr)
        clock.stop()

    clock.callWhenRunning(begin)
    clock.run()


if __name__ == "__main__":
    run(reactor)
