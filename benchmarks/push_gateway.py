"""Cost of the APNs gateway: bytes per Mac, pushes per second and CPU time per push, with h2load as the provider.

    python benchmarks/push_gateway.py [MACS [PUSHES]]

Skipped, with a message, where h2load (Debian package nghttp2-client) is missing.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

from agent.cli.reactor import the_reactor
from agent.fleet.population import Population
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.endpoint import PushEndpoint
from agent.net.apns.gateway import NAMES, APNsGateway
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock
from agent.pki.issuing.authority import SERVER_USAGE, Authority
from agent.push.broker import Presence, PushBroker
from agent.push.requests import Provider
from agent.push.wire import RoutedPush

reactor = the_reactor()

TOPIC = "com.apple.mgmt.External.benchmark"
PROVIDER = Provider(TOPIC, certified=True)


class DerivedMacs:
    """Macs that are derived from the seed and not stored."""

    def __init__(self, population: Population, presence: Presence) -> None:
        self._population = population
        self._presence = presence

    def find(self, token: bytes) -> int | None:
        """The index of the token's Mac, by calculation."""
        return self._population.index_of_token(token)

    def presence(self, _index: int) -> Presence:
        """The same for all."""
        return self._presence

    def topic(self, _index: int) -> str:
        """The same for all."""
        return TOPIC

    def left_at(self, _index: int) -> float:
        """None was unenrolled."""
        return 0.0


def fields(population: Population, index: int) -> list[tuple[str, str]]:
    """The header fields of a push."""
    return [(":method", "POST"), (":path", f"/3/device/{population[index].push_token.hex()}")]


def body(population: Population, index: int) -> bytes:
    """The payload of a push."""
    return b'{"mdm":"%s"}' % population[index].push_magic.encode()


def memory(population: Population) -> None:
    """Memory of the broker per Mac, without and with a stored notification for each."""
    requests = [(fields(population, index), body(population, index)) for index in range(len(population))]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    broker = PushBroker(DerivedMacs(population, Presence.OFFLINE))
    empty = tracemalloc.get_traced_memory()[0]
    now = time.time()
    for header, payload in requests:
        broker.receive(header, payload, PROVIDER, now)
    gc.collect()
    stored = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    macs = len(population)
    assert broker.waiting == macs
    print(f"{macs:,} Macs: {(empty - before) / macs:.3f} bytes per Mac without a notification, "
          f"{(stored - empty) / macs:.0f} bytes with one stored")  # fmt: skip


def judging(population: Population, pushes: int) -> None:
    """CPU time of the decision alone."""
    macs = len(population)
    requests = [(fields(population, index % macs), body(population, index % macs)) for index in range(pushes)]
    broker = PushBroker(DerivedMacs(population, Presence.ONLINE))
    began = time.process_time()
    for header, payload in requests:
        broker.receive(header, payload, PROVIDER, 1e9)
        broker.take()
    print(f"broker alone: {(time.process_time() - began) / pushes * 1e6:.1f} µs of CPU per push")


def network(population: Population, pushes: int, h2load: str, clients: int, streams: int) -> None:
    """Pushes per second and CPU time of each over TLS and HTTP/2, with router and endpoint in this process."""
    identity = Authority.create("benchmark").issue(NAMES[0], SERVER_USAGE, names=[*NAMES, "127.0.0.1"])
    broker = PushBroker(DerivedMacs(population, Presence.ONLINE))
    clock = RunClock(reactor)
    endpoint = PushEndpoint(reactor, broker, lambda _notification: True, clock)

    def send(shard: int, push: RoutedPush) -> None:
        router.answered(shard, endpoint.receive(push))

    router = PushRouter(reactor, population, lambda _index: 0, send, clock, PushBehaviour())
    gateway = APNsGateway(reactor, router, identity, anonymous=PROVIDER)
    gateway.listen("127.0.0.1")
    step = max(1, len(population) // 2000)
    with tempfile.TemporaryDirectory() as folder:
        urls, payload = Path(folder, "urls"), Path(folder, "body")
        urls.write_text("".join(
            f"https://127.0.0.1:{gateway.port}/3/device/{population[index].push_token.hex()}\n"
            for index in range(0, len(population), step)
        ))  # fmt: skip
        payload.write_bytes(body(population, 0))
        command = [h2load, f"--clients={clients}", f"--max-concurrent-streams={streams}", f"--requests={pushes}",
                   f"--input-file={urls}", f"--data={payload}"]  # fmt: skip
        taken: list[float] = []

        def load() -> None:
            began, cpu = time.monotonic(), time.process_time()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken.extend((time.monotonic() - began, time.process_time() - cpu))
            assert f"{pushes} succeeded" in done.stdout, done.stdout
            reactor.callFromThread(reactor.crash)

        threading.Thread(target=load, daemon=True).start()
        reactor.run(installSignalHandlers=False)
    gateway.close()
    router.close()
    endpoint.close()
    seconds, cpu = taken
    assert broker.counts.delivered == pushes
    print(f"h2load, {clients} connections of {streams} streams: {pushes / seconds:,.0f} pushes per second, "
          f"{cpu / pushes * 1e6:.0f} µs of CPU per push")  # fmt: skip


def main() -> None:
    """Run all measurements."""
    given = [int(number) for number in sys.argv[1:3]]
    macs, pushes = given + [100_000, 20_000][len(given) :]
    population = Population("benchmark", macs)
    memory(population)
    judging(population, pushes)
    h2load = shutil.which("h2load")
    if h2load is None:
        print("skipped: h2load is missing (Debian package nghttp2-client)")
        return
    network(population, pushes, h2load, 1, 1000)
    network(population, pushes, h2load, 10, 10)


if __name__ == "__main__":
    main()
