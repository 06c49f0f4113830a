"""Enrolled Macs, whose sessions are measured in CPU time of this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from nginx import Server

from agent.cli.reactor import the_reactor
from agent.device.mac import Device
from agent.errors import PeerError
from agent.faults.decisions import Faults
from agent.fleet.population import Population
from agent.lom.network import AddressBook
from agent.mdm.access_rights import ALL_RIGHTS
from agent.mdm.refusals import ResultRefused
from agent.measure.metrics import Metrics
from agent.measure.operations import Operations
from agent.net.lom.loopback import LoopbackNetwork
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.keys import KeyPool
from agent.net.mac.sessions.commands import CurrentCommand, MacObserver, ObservedMac
from agent.net.timing import RunClock
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE
from agent.plists import dump_xml
from agent.profiles.enrollment import TOPIC_PREFIX, Enrollment

reactor = the_reactor()

POPULATION = Population("benchmark", 10_000)
QUERIES = (
    "UDID", "DeviceName", "OSVersion", "BuildVersion", "ModelName", "Model", "ProductName", "SerialNumber",
    "DeviceCapacity", "AvailableDeviceCapacity", "BatteryLevel", "IsSupervised", "IsMDMLostModeEnabled",
    "BluetoothMAC", "WiFiMAC", "EthernetMACs", "HostName", "LocalHostName", "SystemIntegrityProtectionEnabled",
    "AwaitingConfiguration", "IsActivationLockEnabled", "SupportsLOMDevice",
)  # fmt: skip
COMMAND = dump_xml({
    "CommandUUID": "2b9c1a5e-8a53-4f77-9d39-0f4d4fd3b7a1",
    "Command": {"RequestType": "DeviceInformation", "Queries": list(QUERIES)},
})  # fmt: skip
IDLE_LENGTH = len(dump_xml({"Status": "Idle", "UDID": POPULATION[0].udid}))


class Macs(MacObserver):
    """``identities`` are those of the Macs, in order. It is also their observer."""

    def __init__(
        self,
        server: Server,
        path: str,
        identities: Sequence[Identity],
        *,
        sign: bool = False,
        resume: float = 0.0,
        faults: Faults | None = None,
    ) -> None:
        self.metrics = Metrics()
        clock = RunClock(reactor)
        self.operations = Operations(reactor, self.metrics, started=self.metrics.started, wall_clock=clock)
        contexts = TLSContexts()
        self.environment = Environment(
            reactor=reactor,
            clock=reactor,
            resolver=Resolver(reactor, reactor.nameResolver),
            contexts=contexts,
            network=LoopbackNetwork(reactor, AddressBook(), contexts, self.operations),
            keys=KeyPool(reactor, pool=1),
            operations=self.operations,
            wall_clock=clock,
            anchors=(server.authority.certificate,),
            faults=faults,
            resume=resume,
        )
        self.clients = []
        for index, identity in enumerate(identities):
            client = MDMClient(_device(index), self.environment)
            client.device.enrollment = Enrollment(
                server_url=server.url(path),
                check_in_url=server.url(path),
                topic=f"{TOPIC_PREFIX}External.benchmark",
                access_rights=ALL_RIGHTS,
                identity=identity,
                anchors=(),
                sign_message=sign,
            )
            client.observer = self
            self.clients.append(client)
        self._next = 0
        self._to_start = self._to_end = 0

    def sessions(self, count: int, at_once: int) -> float:
        """CPU µs per session, for ``count`` sessions of one Mac after another, ``at_once`` concurrently."""
        self._to_start = self._to_end = count
        reactor.callWhenRunning(self._start, min(at_once, count))
        began = time.process_time()
        reactor.run(installSignalHandlers=False)
        return (time.process_time() - began) / count * 1e6

    def close(self) -> None:
        """Close the connections."""
        for client in self.clients:
            client.close()
        self.environment.keys.close()

    def _start(self, count: int) -> None:
        for _ in range(count):
            self._to_start -= 1
            client = self.clients[self._next]
            self._next = (self._next + 1) % len(self.clients)
            assert client.wake()

    # What the Macs call.

    def session_ended(self, mac: ObservedMac, failure: PeerError | None) -> None:
        """Start the next session."""
        if failure is not None:
            raise AssertionError(f"a session failed: {failure}") from failure
        self._to_end -= 1
        if self._to_start > 0:
            self._start(1)
        elif self._to_end == 0:
            reactor.crash()

    def refused(self, mac: ObservedMac, command: CurrentCommand, failure: ResultRefused) -> None:
        """Not expected."""
        raise AssertionError(f"a result was refused: {failure}") from failure


def identities(server: Server, count: int) -> list[Identity]:
    """An identity with a P-256 key for each of ``count`` Macs."""
    return [server.authority.issue(f"mac {index}", CLIENT_USAGE) for index in range(count)]


def raw_request(folder: Path, path: str) -> Path:
    """The bytes of a Mac's Idle request, for floor.c."""
    body = dump_xml({"Status": "Idle", "UDID": POPULATION[0].udid})
    head = f"PUT /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    written = folder / f"{path}.request"
    written.write_bytes(head.encode() + body)
    return written


def _device(index: int) -> Device:
    return Device(POPULATION[index], boot_seconds=lambda: 0.0, jitter=lambda: 0.0)
