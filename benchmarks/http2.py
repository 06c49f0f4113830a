"""Cost of HTTP/2 for the client, beside HTTP/1.1 in the same run: kept-alive requests, new connections, memory.

    python benchmarks/http2.py [CONNECTIONS [AT_ONCE]]

Each connection has an identity of its own and sends PUTs of a report's length; the server is nginx on the other core,
with one answer for all, or with a header that differs in each answer, so that no parsed header section is found again.
It reads the report before it answers, as an MDM server does, and in HTTP/2 sends WINDOW_UPDATE in a record of its own
before the answer; beside it one that answers before, which in HTTP/2 sends RST_STREAM after its answer. So in HTTP/2
there are two records to decrypt for a request, in HTTP/1.1 one.
A new connection is TCP, a full handshake, one request, close. Memory is the growth of a process of its own for each
connection that has had one answer, and of the objects of one connection over 10,000 requests. Skipped, with a message,
where nginx is missing.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from enrolled import resident_bytes
from macs import COMMAND, IDLE_LENGTH, identities
from nginx import HOST, Server, cores, server, skip_without
from table import heading, row, verdict

from agent.cli.reactor import the_reactor
from agent.errors import PeerError
from agent.load.machine.limits import allow_open_files
from agent.net.http import hpack, http2_fields
from agent.net.http.connection import BOTH, HTTPConnection
from agent.net.http.http1 import Origin, Response
from agent.net.http.request import RequestHead
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity

reactor = the_reactor()

ROUNDS = 7
REQUESTS = 3  # of each connection in a round
NEW = "new"
LONG = 10_000  # requests on one connection
VERSIONS = ("HTTP/1.1", "HTTP/2")
HEADERS = {"User-Agent": "MDM-OSX/1.0 mdmclient/1543", "Content-Type": "application/x-apple-aspen-mdm"}
BODY = b"x" * IDLE_LENGTH


class Crowd:
    """Connections of one version of HTTP to one location; ``closes``: each is closed after an answer."""

    def __init__(
        self, nginx: Server, version: str, path: str, people: Sequence[Identity], *, closes: bool = False
    ) -> None:
        http2 = version == "HTTP/2"
        origin = Origin(HOST, nginx.http2_port if http2 else nginx.port)
        self.version = version
        self._closes = closes
        self.connections = [
            HTTPConnection(
                reactor,
                Resolver(reactor, reactor.nameResolver),
                CONTEXTS,
                origin,
                (nginx.authority.certificate,),
                identity,
                alpn=BOTH if http2 else (),
            )
            for identity in people
        ]
        self._head = RequestHead("PUT", origin, f"/{path}", HEADERS)
        self._times = self._unanswered = 0
        self._waiting: list[HTTPConnection] = []

    def requests(self, times: int, at_once: int) -> float:
        """So many requests on each connection; µs of CPU for one."""
        self._times, self._waiting = times, list(self.connections)
        self._unanswered = len(self.connections) * times
        for _ in range(at_once):
            reactor.callWhenRunning(self._next)
        gc.collect()
        before, count = time.process_time(), self._unanswered
        reactor.run(installSignalHandlers=False)
        return (time.process_time() - before) / count * 1e6

    def close(self) -> None:
        """Close all."""
        for connection in self.connections:
            connection.close()

    def _next(self) -> None:
        if self._waiting:
            self.send(_Requests(self, self._waiting.pop(), self._times))

    def send(self, requests: _Requests) -> None:
        """Send the next request on its connection."""
        requests.connection.request(self._head.request(BODY), requests)

    def ended(self, requests: _Requests, response: Response) -> None:
        """An answer came."""
        assert (response.status, requests.connection.http_version) == (200, self.version)
        if self._closes:
            requests.connection.close()
        self._unanswered -= 1
        requests.left -= 1
        if requests.left:
            self.send(requests)
        elif self._unanswered:
            self._next()
        else:
            reactor.crash()


class _Requests:
    """The requests of one connection, one after another; their caller."""

    def __init__(self, crowd: Crowd, connection: HTTPConnection, left: int) -> None:
        self.connection = connection
        self.left = left
        self._crowd = crowd

    def answered(self, response: Response) -> None:
        """The response arrived."""
        self._crowd.ended(self, response)

    def broke(self, error: PeerError) -> None:
        """The request failed."""
        raise error


CONTEXTS = TLSContexts()


def times(nginx: Server, people: Sequence[Identity], at_once: int) -> dict[str, list[float]]:
    """µs of CPU of each kind of request, by round."""
    crowds = {
        f"{what}, {version}": Crowd(nginx, version, path, people, closes=what == NEW)
        for what, path in (
            ("kept, repeated headers", "read/repeated"),
            ("kept, unique headers", "read/unique"),
            ("kept, report not read", "command"),
            (NEW, "command"),
        )
        for version in VERSIONS
    }
    found: dict[str, list[float]] = {what: [] for what in crowds}
    for what, crowd in crowds.items():
        if not what.startswith(NEW):
            crowd.requests(1, at_once)
    for _ in range(ROUNDS):
        for what, crowd in crowds.items():
            found[what].append(crowd.requests(1 if what.startswith(NEW) else REQUESTS, at_once))
    for crowd in crowds.values():
        crowd.close()
    return found


def part(version: str, count: int) -> float:
    """Bytes of each of so many connections, in this process."""
    allow_open_files(count)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), COMMAND, IDLE_LENGTH, 2 * count + 512) as nginx:
        people = identities(nginx, count + 100)
        warm, measured = (Crowd(nginx, version, "command", each) for each in (people[:100], people[100:]))
        warm.requests(3, 50)
        before = resident_bytes()
        measured.requests(1, 50)
        return (resident_bytes() - before) / count


def alone(version: str, count: int) -> float:
    """The same in a process of its own, in KiB."""
    command = [sys.executable, __file__, "--part", version, str(count)]
    return float(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)) / 1024


def growth(nginx: Server, people: Sequence[Identity]) -> int:
    """Bytes by which the objects of one connection grow over LONG requests."""
    crowd = Crowd(nginx, "HTTP/2", "command", people[:1])
    crowd.requests(100, 1)
    tracemalloc.start()
    sizes = []
    for requests in (100, LONG - 100):
        crowd.requests(requests, 1)
        for kept in (http2_fields._kept_head, hpack._kept_text):  # of all connections, bounded; the date changes
            kept.cache_clear()
        hpack._STEPS.clear()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    crowd.close()
    return sizes[1] - sizes[0]


def main() -> None:
    """Run all measurements."""
    skip_without("nginx")
    given = [int(number) for number in sys.argv[1:3]]
    connections, at_once = given + [500, 50][len(given) :]
    allow_open_files(4 * connections)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # nginx's worker runs as another user
        with server(folder, COMMAND, IDLE_LENGTH) as nginx:
            os.sched_setaffinity(0, {cores()[0]})
            people = identities(nginx, connections)
            found = times(nginx, people, at_once)
            grown = growth(nginx, people)
    print(heading(ROUNDS))
    for what, measured in found.items():
        print(row(what, measured))
    for what, most in (("kept, repeated headers", 1.0), ("kept, unique headers", 1.15), (NEW, 1.05)):
        ratio = min(found[f"{what}, HTTP/2"]) / min(found[f"{what}, HTTP/1.1"])
        print(verdict(f"{what}, HTTP/2 / HTTP/1.1", ratio, most, "times"))
    sizes = {version: alone(version, 2 * connections) for version in VERSIONS}
    print(", ".join(f"{version}: {size:.1f} KiB a connection" for version, size in sizes.items()))
    print(verdict("memory of a connection, HTTP/2 - HTTP/1.1", sizes["HTTP/2"] - sizes["HTTP/1.1"], 1.0, "KiB"))
    print(verdict(f"growth of a connection over {LONG:,} requests", grown / 1024, 1.0, "KiB"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(part(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
