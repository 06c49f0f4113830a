"""A lab with a store continues the lab of the process before: its state, token, challenges and ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.lab.defects import NONE, Defects
from agent.lab.mdm.core import Lab
from agent.lab.stored.store import LabStore
from agent.lab.web.server import HOST, LabServer
from agent.pki.issuing.authorities import Authorities


def lab_server(
    reactor: Any,
    store: LabStore | None,
    authorities: Authorities,
    *,
    scep: bool,
    acme: bool = False,
    reenrollment: bool = True,
    defects: Defects = NONE,
    host: str = HOST,
    names: Sequence[str] = (HOST, "localhost"),
) -> LabServer:
    """A lab that continues what is in the store; a new one without a store. Raises OperatorError."""
    if store is None:
        lab = Lab(reenrollment=reenrollment, defects=defects)
        return LabServer(reactor, lab, authorities, scep=scep, acme=acme, host=host, names=names)
    server = LabServer(
        reactor,
        Lab(reenrollment=reenrollment, state=store, defects=defects),
        authorities,
        scep=scep,
        acme=acme,
        token=store.setting("token"),
        challenges=store.challenges,
        host=host,
        names=names,
    )
    store.set("token", server.token)
    return server


def listen(server: LabServer, store: LabStore | None, port: int = 0, scep_port: int = 0) -> None:
    """Listen on the given ports, else on those of the store, which the enrolled Macs use. Raises OperatorError."""
    if store is None:
        server.listen(port, scep_port)
        return
    server.listen(port or store.port("port"), scep_port or store.port("scep port"))
    store.keep_port("port", server.url)
    store.keep_port("scep port", server.scep_url)
