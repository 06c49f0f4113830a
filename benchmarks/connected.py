"""Many connected Macs in one process: sessions at a steady rate, errors, and the lag of the event loop.

    python benchmarks/connected.py [MACS [SESSIONS_A_SECOND [SECONDS]]]

Every Mac has an identity and a kept-alive connection of its own to nginx, which answers every report with nothing. The
sessions start on schedule, however busy the loop is; each report has an Mdm-Signature, as the lab's profile requires.
It prints by how much a timer that is due every 5 ms ran late. The floor is the same timer in this process, with the
same Macs connected, before the first session starts.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from enrolled import EnrolledFleet, resident_bytes
from nginx import Server, cores, server, skip_without
from table import verdict
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from agent.cli.reactor import the_reactor
from agent.errors import PeerError
from agent.load.machine.limits import allow_open_files
from agent.net.mac.client import MDMClient
from agent.net.mac.sessions.commands import MacObserver, ObservedMac

reactor = the_reactor()

AT_ONCE = 100  # connections opened concurrently
TICK = 0.005
AIM_LAG_MS = 50.0
KIB = 1024


class Lag:
    """By how many seconds the loop is late for a timer of TICK seconds."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self._due = 0.0
        self._timer: Any = None

    def start(self) -> None:
        """Start."""
        self.found.clear()
        self._arm()

    def stop(self) -> dict[str, float]:
        """The measured lag, in ms."""
        self._timer.cancel()
        ordered = sorted(self.found)
        places = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        found = {name: 1e3 * ordered[int(place * (len(ordered) - 1))] for name, place in places.items()}
        return {**found, "max": 1e3 * ordered[-1]}

    def _tick(self) -> None:
        self.found.append(reactor.seconds() - self._due)
        self._arm()

    def _arm(self) -> None:
        self._due = reactor.seconds() + TICK
        self._timer = reactor.callLater(TICK, self._tick)


class Crowd(MacObserver):
    """The Macs and their sessions. It is their observer."""

    def __init__(self, fleet: EnrolledFleet, macs: int) -> None:
        self.clients = [fleet.fleet[index] for index in range(macs)]
        self.fleet = fleet
        self.ended = self.failed = self.busy = 0
        self._opening: list[MDMClient] = []
        self._opened: Deferred[None] = Deferred()

    async def connect(self) -> None:
        """Open every connection with one session for each Mac."""
        self._opening = self.clients[::-1]
        for client in self.clients:
            client.observer = self
        for _ in range(AT_ONCE):
            self._open_next()
        await self._opened

    async def sessions(self, rate: float, seconds: float) -> None:
        """Start this many sessions per second on schedule, one Mac after another."""
        began, count = reactor.seconds(), int(rate * seconds)
        swept = began
        for number in range(count):
            due = began + number / rate
            if (wait := due - reactor.seconds()) > 0.001:
                await deferLater(reactor, wait)
            if not self.clients[number % len(self.clients)].wake():
                self.busy += 1
            if reactor.seconds() > swept + 1:
                swept = reactor.seconds()
                self.fleet.fleet.make_idle(200, 500)
        await deferLater(reactor, 1.0)

    def session_ended(self, mac: ObservedMac, failure: PeerError | None) -> None:
        """Count a session."""
        self.ended += 1
        self.failed += failure is not None
        if self._opening:
            self._open_next()
        elif self.ended == len(self.clients) and not self._opened.called:
            self._opened.callback(None)

    def _open_next(self) -> None:
        if self._opening:
            assert self._opening.pop().wake()


async def run(nginx: Server, macs: int, rate: float, seconds: float) -> None:
    """Connect; measure the loop without sessions, then with them."""
    fleet = EnrolledFleet(macs, nginx.authority, nginx.url("nothing"))
    for index in range(macs):
        fleet.enroll(index, lom=False)
        fleet.fleet.make_idle(200, 500)
    crowd = Crowd(fleet, macs)
    enrolled = resident_bytes()
    began = time.process_time()
    await crowd.connect()
    opening = time.process_time() - began
    assert all(client.connected for client in crowd.clients)
    fleet.fleet.make_idle(200, macs)  # as a run does, in the seconds after
    grown = (resident_bytes() - enrolled) / macs / KIB
    print(
        f"{macs} Macs connected: {1e6 * opening / macs:.0f} µs of CPU and {grown:.1f} KiB each, {crowd.failed} errors"
    )
    gc.collect()
    gc.freeze()  # as a run does at the start of a phase: otherwise every collection visits all Macs
    lag = Lag()
    lag.start()
    await deferLater(reactor, 5.0)
    idle = lag.stop()
    crowd.ended = 0
    lag.start()
    wall, cpu = time.monotonic(), time.process_time()
    await crowd.sessions(rate, seconds)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    busy = lag.stop()
    print(f"{crowd.ended} sessions in {wall:.1f} s; {crowd.failed} errors, {crowd.busy} Macs still busy when due")
    print(
        f"CPU {100 * cpu / wall:.0f} % of a core, {1e6 * cpu / max(1, crowd.ended):.0f} µs a session with all around it"
    )
    for name, found in (("floor: no sessions", idle), (f"{rate:g} sessions a second", busy)):
        print(f"{f'loop lag in ms, {name}':<44}" + "".join(f"{key:>7} {value:<7.2f}" for key, value in found.items()))
    assert crowd.failed == 0
    print(verdict("loop lag p99", busy["p99"], AIM_LAG_MS, "ms"))
    fleet.fleet.close()


def main() -> None:
    """Start nginx and the Macs."""
    skip_without("nginx")
    macs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 500.0
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 20.0
    allow_open_files(macs // 2 + 512)  # one socket per Mac here; nginx has the other ends
    # nginx closes idle connections once only a sixteenth of its connections is free.
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), b"", 1, macs + macs // 4 + 512) as nginx:
        os.sched_setaffinity(0, {cores()[0]})

        def begin() -> None:
            done = Deferred.fromCoroutine(run(nginx, macs, rate, seconds))
            done.addErrback(_print).addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()


def _print(failure: Failure) -> None:
    failure.printTraceback(sys.stderr)  # type: ignore[no-untyped-call]  # of Twisted


if __name__ == "__main__":
    main()
