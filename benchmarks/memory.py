"""Memory of a Mac: enrolled and idle, by kind of key; and with an open connection.

    python benchmarks/memory.py [MACS [CONNECTED]]

Every Mac is enrolled with the lab's profile and has the lab's LOM profile, so it has two identities, a Controller
three. It measures the growth of the process per Mac (resident memory, after a collection), once everything that a fleet
shares exists. While Macs enroll, idle ones are serialised as in a run. Small objects can use memory that was free
before, so the sizes that the objects of a Mac report are printed, too, and the larger of the two counts. The floor is
the private keys, and the certificates in DER without compression; a run compresses them, with another Mac's as the
dictionary.

The connections are to nginx with client certificates; without nginx that part is skipped with a message. Their floor is
a bare ``SSL.Connection`` with an identity of its own on a socket. Every figure is from a process of its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from enrolled import EnrolledFleet, resident_bytes
from nginx import HOST, Server, server, skip_without
from OpenSSL import SSL
from table import verdict

from agent.cli.reactor import the_reactor
from agent.errors import PeerError
from agent.load.machine.limits import allow_open_files
from agent.net.mac.client import MDMClient
from agent.net.mac.sessions.commands import MacObserver, ObservedMac
from agent.net.transport.tls import make_context
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, Authority

reactor = the_reactor()

KIB = 1024
WARM_UP = 100
AT_ONCE = 50
POINTER_BYTES = 8
AIM_RESTING, AIM_CONNECTED = 2.0, 45.0


def is_idle(macs: int, with_rsa: bool) -> list[float]:
    """Bytes per enrolled idle Mac: growth of the process, counted objects, and the floor."""
    fleet = EnrolledFleet(WARM_UP + macs, Authority.create("Benchmark CA"), "https://mdm.invalid")
    least = before = 0
    for index in range(WARM_UP + macs):
        if index == WARM_UP:
            before = resident_bytes()
        client = fleet.enroll(index, with_rsa=with_rsa)
        if index >= WARM_UP:
            least += sum(len(octets) for identity in client.device.identities for octets in identity.octets)
        fleet.fleet.make_idle(200, 500)
    grown = resident_bytes() - before
    assert all(client.is_idle for client in fleet.fleet.made())
    counted = sum(_size(client) for client in list(fleet.fleet.made())[WARM_UP:])
    return [grown / macs, counted / macs, least / macs]


def _size(client: MDMClient) -> int:
    """The client's own objects, and its slot in the fleet's list."""
    own = (client, client._kept, *client._kept, client.index, client.segment)
    return sum(sys.getsizeof(one) for one in own) + POINTER_BYTES


class Connecting(MacObserver):
    """Opens a session for each Mac, one after another. It is their observer."""

    def __init__(self, clients: list[MDMClient]) -> None:
        self._waiting = clients
        self._left = len(clients)

    def run(self) -> None:
        """Run until every Mac had its session; the connections stay open."""
        reactor.callWhenRunning(self._begin)
        reactor.run(installSignalHandlers=False)

    def _begin(self) -> None:
        for _ in range(AT_ONCE):
            self._next()

    def _next(self) -> None:
        if self._waiting:
            client = self._waiting.pop()
            client.observer = self
            assert client.wake()

    def session_ended(self, mac: ObservedMac, failure: PeerError | None) -> None:
        """Start the next session."""
        assert failure is None, failure
        self._left -= 1
        if self._left:
            self._next()
        else:
            reactor.crash()


def connected(macs: int, nginx: Server) -> list[float]:
    """Bytes per enrolled, connected Mac."""
    fleet = EnrolledFleet(WARM_UP + macs, nginx.authority, nginx.url("nothing"))
    clients = [fleet.enroll(index) for index in range(WARM_UP)]
    Connecting(clients[:WARM_UP]).run()
    before = resident_bytes()
    for index in range(WARM_UP, WARM_UP + macs):
        clients.append(fleet.enroll(index))
        Connecting(clients[-1:]).run()
        fleet.fleet.make_idle(200, 500)
    after = resident_bytes()
    assert all(client.connected for client in clients)
    fleet.fleet.close()
    return [(after - before) / macs]


def bare(connections: int, nginx: Server) -> list[float]:
    """Bytes of an OpenSSL connection with an identity, and of its socket."""
    context = make_context((nginx.authority.certificate,))
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    kept: list[tuple[SSL.Connection, socket.socket]] = []
    identities = [nginx.authority.issue(f"bare {index}", CLIENT_USAGE) for index in range(WARM_UP + connections)]
    for identity in identities:
        _ = identity.octets
        identity.free_objects()
    before = 0
    for index, identity in enumerate(identities):
        if index == WARM_UP:
            before = resident_bytes()
        kept.append(_open(context, identity, nginx.port))
    after = resident_bytes()
    for _tls, sock in kept:
        sock.close()
    return [(after - before) / connections]


def _open(context: SSL.Context, identity: Identity, port: int) -> tuple[SSL.Connection, socket.socket]:
    sock = socket.create_connection((HOST, port))
    tls = SSL.Connection(context, sock)
    tls.use_certificate(identity.certificate)
    tls.use_privatekey(identity.key)
    tls.set_connect_state()
    tls.do_handshake()
    tls.send(b"PUT /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    tls.recv(16384)
    identity.free_objects()
    return tls, sock


def part(name: str, count: int) -> list[float]:
    """Run one measurement in this process."""
    if name in ("P-256", "RSA-2048"):
        return is_idle(count, name == "RSA-2048")
    allow_open_files(count)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), b"", 1, 2 * count + 512) as nginx:
        return connected(count, nginx) if name == "connected" else bare(count, nginx)


def alone(name: str, count: int) -> list[float]:
    """Run one measurement in a new process; returns KiB."""
    command = [sys.executable, __file__, "--part", name, str(count)]
    sizes = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return [size / KIB for size in sizes]


def main() -> None:
    """Measure both states and the floors."""
    macs = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    connections = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    print(f"{'KiB a Mac':<44}{'grown':>9}{'counted':>9}{'floor':>9}")
    found = {}
    for kind in ("P-256", "RSA-2048"):
        grown, counted, least = alone(kind, macs if kind == "P-256" else macs // 5)
        found[kind] = max(grown, counted)
        print(f"{f'not connected, {kind} for MDM':<44}{grown:>9.2f}{counted:>9.2f}{least:>9.2f}")
    for kind, size in found.items():
        print(verdict(f"a Mac that is not connected, {kind}", size, AIM_RESTING, "KiB"))
    skip_without("nginx")
    (size,), (floor,) = alone("connected", connections), alone("bare", connections)
    print(f"{f'connected, {connections} Macs':<44}{size:>9.1f}{'':>9}{floor:>9.1f}")
    print(verdict("a Mac that is connected", size, AIM_CONNECTED, "KiB"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(part(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
