"""The server under test: where its Macs enroll, and how it is asked to queue a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import OperatorError
from agent.fleet.population import Mac, Population
from agent.lab.defects import NONE, Defects
from agent.lab.mdm.core import Lab
from agent.lab.web.server import LabServer
from agent.load.conductor.server import ServerSide
from agent.load.shard.plan import EnrollAt, EnrollAutomatically, server_config
from agent.net.http.http1 import without_query
from agent.net.transport.resolver import Resolver
from agent.pki.certificates import read_certificate
from agent.pki.issuing.authorities import Authorities
from agent.scenario.types import Scenario
from agent.servers.configs import LabConfig, ServerConfig, Trust
from agent.servers.opening import open_server
from agent.servers.server import Server

MacOf = Callable[[str], Mac]


class Target(msgspec.Struct):
    """One server under test."""

    adapter: str
    enroll: str | bytes
    """The URL of the enrollment profile, or the profile."""
    config: ServerConfig | None = None
    """Of its API; None: nothing can be queued there, or ``server`` does it."""
    server: Server | None = None
    """What queues commands instead of ``config``."""
    anchors: tuple[x509.Certificate, ...] = ()
    insecure: bool = False
    http: str = "auto"
    """As in ServiceSettings."""
    lab: LabServer | None = None
    """The embedded lab, which is closed with the stage."""

    @property
    def url(self) -> str:
        """Where the enrollment profile is, without its query; empty for a file."""
        return without_query(self.enroll) if isinstance(self.enroll, str) else ""

    def open(self, reactor: Any, resolver: Resolver, mac_of: MacOf) -> Server | None:
        """What queues commands in it; None: nothing does. Raises OperatorError."""
        if self.server is not None or self.config is None:
            return self.server
        return open_server(self.config, reactor, resolver, mac_of)


def embedded_lab(
    reactor: Any,
    authorities: Authorities | None = None,
    *,
    scep: bool = False,
    acme: bool = False,
    defects: Defects = NONE,
) -> Target:
    """A lab of this process, with ``defects``. It listens already. Raises OperatorError."""
    server = LabServer(reactor, Lab(defects=defects), authorities or Authorities(), scep=scep, acme=acme)
    server.listen()
    anchor = server.authorities.anchor
    pem = anchor.public_bytes(Encoding.PEM).decode("ascii")
    config = LabConfig(server.url, server.token, Trust(pem, system=False))
    return Target("lab", server.enrollment_url, config, anchors=(anchor,), lab=server)


def target_of(reactor: Any, scenario: Scenario) -> Target:
    """The server of a scenario's ``[server]``. Raises OperatorError."""
    if scenario.server.adapter == "lab" and scenario.server.lab is None:
        identity = scenario.server.identity
        return embedded_lab(reactor, scep=identity == "scep", acme=identity == "acme")
    side = ServerSide(reactor, scenario, Population(scenario.fleet.seed, 1, 1))
    if isinstance(side.enroll, EnrollAutomatically):
        raise OperatorError(
            'Expected server.enrollment = "profile", found "ade". The conformance check enrolls with a profile.'
        )
    return Target(
        scenario.server.adapter,
        side.enroll.url if isinstance(side.enroll, EnrollAt) else side.enroll.profile,
        None if side.config is None else server_config(side.config),
        anchors=tuple(read_certificate(each) for each in side.anchors),
        insecure=scenario.server.insecure,
        http=scenario.server.http,
    )
