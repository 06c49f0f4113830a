"""A fleet whose Macs enroll without a network: real profiles and identities; check-ins are discarded."""

from __future__ import annotations

import gc
import os
import uuid
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from agent.cli.reactor import the_reactor
from agent.device.installing.profiles import enrollment_steps, install_profile
from agent.device.steps import Done, Steps, advance
from agent.fleet.population import Population
from agent.lom.network import AddressBook
from agent.measure.metrics import Metrics
from agent.measure.operations import Operations
from agent.net.lom.memory import MemoryLOMNetwork
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.keys import KeyPool
from agent.net.mac.fleet.macs import Fleet
from agent.net.timing import RunClock
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import PrivateKey
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import CLIENT_USAGE, Authority
from agent.profiles.making import enrollment_profile, lom_profile

reactor = the_reactor()

RSA_KEYS = 64  # shared by the Macs, because generating more takes too long


class EnrolledFleet:
    """``authority`` issues the MDM identities; ``base_url`` is the server's. ``metrics`` gets every record."""

    def __init__(self, devices: int, authority: Authority, base_url: str, seed: str = "benchmark") -> None:
        self.metrics = Metrics()
        clock = RunClock(reactor)
        self.operations = Operations(reactor, self.metrics, started=self.metrics.started, wall_clock=clock)
        self.environment = Environment(
            reactor=reactor,
            clock=reactor,
            resolver=Resolver(reactor, reactor.nameResolver),
            contexts=TLSContexts(),
            network=MemoryLOMNetwork(reactor, AddressBook(), self.operations),
            keys=KeyPool(reactor),
            operations=self.operations,
            wall_clock=clock,
            anchors=(authority.certificate,),
        )
        self.fleet = Fleet(Population(seed, devices), self.environment)
        self._authority = authority
        self._authorities = Authorities()
        self._base_url = base_url
        self._rsa_keys: list[rsa.RSAPrivateKey] = []

    def enroll(self, index: int, *, with_rsa: bool = False, lom: bool = True) -> MDMClient:
        """Enroll one Mac with the lab's profile, and install the lab's LOM profile."""
        client = self.fleet[index]
        key = self._rsa_key(index) if with_rsa else None
        _carry(
            enrollment_steps(
                client.device, enrollment_profile(self._authorities, self._base_url, self._pkcs12(index, key))
            )
        )
        if lom:
            mac = client.device.mac
            roles = {role: role in mac.roles for role in ("device", "controller")}
            _carry(install_profile(client.device, lom_profile(self._authorities, mac.dns_name, **roles)))
        return client

    def _rsa_key(self, index: int) -> rsa.RSAPrivateKey:
        if len(self._rsa_keys) < RSA_KEYS:
            self._rsa_keys.append(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        return self._rsa_keys[index % len(self._rsa_keys)]

    def _pkcs12(self, index: int, key: PrivateKey | None) -> dict[str, Any]:
        """As the lab's, but without a password: its key derivation would take most of the time."""
        issued = self._authority.issue(f"mac {index} {uuid.uuid4()}", CLIENT_USAGE, key=key)
        return {
            "PayloadType": "com.apple.security.pkcs12",
            "PayloadVersion": 1,
            "PayloadUUID": str(uuid.uuid4()).upper(),
            "PayloadIdentifier": "test.lom-agent.lab.enrollment.profiles.identity",
            "PayloadDisplayName": "MDM identity",
            "PayloadContent": _packed(issued.key, issued.certificate),
        }


def resident_bytes() -> int:
    """The resident memory of this process after a garbage collection."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _packed(key: PrivateKey, certificate: x509.Certificate) -> bytes:
    return serialize_key_and_certificates(b"mac", key, certificate, None, NoEncryption())


def _carry(steps: Steps[Any]) -> None:
    need = advance(steps, None)
    while not isinstance(need, Done):
        need = advance(steps, b"")
