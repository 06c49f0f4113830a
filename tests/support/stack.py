"""The whole program in one reactor: a real lab, real Macs, real sockets; for tests of one detail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from rsa_keys import rsa_key, rsa_keys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from agent.faults.decisions import Faults
from agent.fleet.population import Population
from agent.lab.mdm.core import Lab
from agent.lab.web.server import LabServer
from agent.lom.network import AddressBook
from agent.measure.exchanges import ExchangeLog
from agent.measure.operations import Operations
from agent.measure.records import Exchange
from agent.net.lom.loopback import LoopbackNetwork
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.keys import KeyPool, _Key
from agent.net.mac.fleet.macs import DEFAULT_BEHAVIOUR, Fleet, FleetBehaviour
from agent.net.timing import RunClock
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import Authority

SECONDS = 20.0  # after which something that should happen did not: far beyond what it takes


@cache
def scep_authority() -> Authority:
    """Of every lab of this process: to make an RSA key takes longer than the rest of a lab."""
    return Authority.create("SCEP CA of the tests", key=rsa_keys()[3], decrypts=True)


class _KeysOfThisProcess(KeyPool):
    """Keys that are made once for all stacks, without child processes; tests/net/mac/test_keys.py has those."""

    def _make(self, bits: int) -> _Key:
        key = _Key()
        key.set(rsa_key(bits))
        return key


class Stack:
    """A lab and its Macs.

    ``exchanges`` is every record that they left, ``warnings`` what a person would read, ``reports`` the UDID and the
    connection of each report.
    """

    def __init__(
        self,
        devices: int,
        *,
        scep: bool = False,
        acme: bool = False,
        os: str | None = None,
        model: str | None = None,
        behaviour: FleetBehaviour = DEFAULT_BEHAVIOUR,
        resume: float = 0.0,
        faults: Faults | None = None,
        log: ExchangeLog | None = None,
    ) -> None:
        self.exchanges: list[Exchange] = []
        self.warnings: list[str] = []
        authorities = Authorities({"scep": scep_authority()} if scep else None)
        self.server = LabServer(reactor, Lab(), authorities, scep=scep, acme=acme)
        self.lab = self.server.lab
        self.reports: list[tuple[str, int]] = []
        self.lab.on_report = lambda udid, connection: self.reports.append((udid, connection))
        self.keys = _KeysOfThisProcess(reactor, pool=1)
        clock = RunClock(reactor)
        self.operations = Operations(reactor, self.exchanges.append, wall_clock=clock)
        self.network = LoopbackNetwork(reactor, AddressBook(), TLSContexts(), self.operations)
        self.environment = Environment(
            reactor=reactor,
            clock=reactor,
            resolver=Resolver(reactor, reactor.nameResolver),
            contexts=TLSContexts(short_keys=True),
            network=self.network,
            keys=self.keys,
            operations=self.operations,
            wall_clock=clock,
            anchors=(self.server.authorities.anchor,),
            on_warning=self.warnings.append,
            resume=resume,
            faults=faults,
            exchanges=log,
        )
        self.fleet = Fleet(Population("stack", devices, os=os, model=model), self.environment, behaviour)

    def udid(self, client: MDMClient) -> str:
        """The Mac's UDID."""
        return client.device.mac.udid

    async def enroll(self, client: MDMClient) -> None:
        """Enroll one Mac with the lab's profile."""
        await client.enroll_at(self.server.enrollment_url)

    async def command(self, client: MDMClient, request_type: str, **body: Any) -> Mapping[str, Any]:
        """Queue a command, wake the Mac, and return its result."""
        arrived: Deferred[Mapping[str, Any]] = Deferred()
        self.lab.enqueue(self.udid(client), {"RequestType": request_type, **body}, arrived.callback)
        client.wake()
        return await arrived.addTimeout(SECONDS, reactor)

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait until ``happened``; it is an error if it does not."""
        for _ in range(int(SECONDS / 0.01)):
            if happened():
                return
            await deferLater(reactor, 0.01)
        raise AssertionError(f"did not happen: {what}")

    def failures(self, operation: str) -> list[str]:
        """The kinds of the failures of one operation, in order."""
        return [
            exchange.failure.kind
            for exchange in self.exchanges
            if exchange.operation == operation and exchange.failure is not None
        ]


@asynccontextmanager
async def stack(
    devices: int = 1,
    *,
    scep: bool = False,
    acme: bool = False,
    os: str | None = None,
    model: str | None = None,
    behaviour: FleetBehaviour = DEFAULT_BEHAVIOUR,
    resume: float = 0.0,
    faults: Faults | None = None,
    log: ExchangeLog | None = None,
    enrolled: bool = True,
) -> AsyncIterator[Stack]:
    """A running stack whose Macs are enrolled by default; everything is closed after it."""
    running = Stack(
        devices, scep=scep, acme=acme, os=os, model=model, behaviour=behaviour, resume=resume, faults=faults, log=log
    )
    running.server.listen()
    running.network.listen()
    try:
        for client in running.fleet if enrolled else ():
            await running.enroll(client)
        yield running
    finally:
        running.fleet.close()
        running.network.close()
        running.keys.close()
        await running.server.close()
