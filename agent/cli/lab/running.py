"""Runs the embedded MDM server for ``lom-agent lab``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import Deferred

from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.results.outputs import make_folder
from agent.cli.signals import Stopping
from agent.files import write_file
from agent.lab.defects import defects_named
from agent.lab.mdm.push import LabPush, provider_at
from agent.lab.stored.keeping import lab_server
from agent.lab.stored.keeping import listen as listen_on_ports
from agent.lab.stored.store import LabStore
from agent.lab.web.server import LabServer
from agent.load.control.listening import LOOPBACK, address_of, listen_at
from agent.net.transport.anchors import read_anchors
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.device_ca import device_ca_pem
from agent.profiles.making import TOPIC


def run_lab(
    port: int,
    identity: str,
    scep_port: int,
    out: str | None,
    reenrollment: bool,
    apns: str | None,
    apns_ca: str | None,
    defect_names: Sequence[str] = (),
    *,
    listen: str | None = None,
    advertise: str | None = None,
) -> None:
    """Run the lab until a signal comes. Raises OperatorError."""
    defects = defects_named(defect_names)
    place = LOOPBACK if listen is None else listen_at((address_of(listen, "--listen"), 0), advertise, "--listen")
    reactor = the_reactor()
    store = None
    if out is not None:
        make_folder(out)
        store = LabStore(Path(out))
    authorities = Authorities(None if store is None else store.authorities)
    server = lab_server(
        reactor,
        store,
        authorities,
        scep=identity == "scep",
        acme=identity == "acme",
        reenrollment=reenrollment,
        defects=defects,
        host=place.host,
        names=place.names,
    )
    push = server.authorities.push_identity(TOPIC)
    if apns is not None:
        anchors = () if apns_ca is None else read_anchors((apns_ca,))
        server.push = LabPush(server.lab, provider_at(reactor, apns, anchors, push))
    listen_on_ports(server, store, port, scep_port)
    _print_lab(server, out)
    if apns is not None:
        _print_push(push, apns, out)
    stopped: Deferred[None] = Deferred()

    async def stay() -> None:
        await stopped
        if server.push is not None:
            server.push.close()
        await server.close()
        if store is not None:
            store.close()

    def interrupt() -> None:
        if not stopped.called:
            stopped.callback(None)

    with Stopping() as stopping:  # before the message that Ctrl-C stops the command
        click.echo("Ctrl-C ends it.")
        signal_number = run_until_done(reactor, stay(), interrupt, stopping=stopping)
    if signal_number is not None:
        sys.exit(128 + signal_number)


def _print_lab(server: LabServer, out: str | None) -> None:
    pem = server.authorities.anchor.public_bytes(Encoding.PEM).decode("ascii")
    click.echo(f"MDM server:         {server.url}")
    click.echo(f"Enrollment profile: {server.enrollment_url}")
    if server.scep_url:
        click.echo(f"SCEP:               {server.scep_url}")
    click.echo(f"API:                {server.url}/api/v1/macs")
    if out is None:
        click.echo(f"API token:          {server.token}")
        click.echo(f"CA certificate:\n{pem}", nl=False)
    else:
        folder = Path(out)
        ca, token, profile = folder / "ca.pem", folder / "token", folder / "enrollment.mobileconfig"
        write_file(ca, pem.encode("ascii"))
        write_file(token, server.token.encode("ascii") + b"\n", private=True)
        write_file(profile, server.enrollment_profile(), private=True)
        click.echo(f"API token:          {token}")
        click.echo(f"CA certificate:     {ca}")
        click.echo(f"One profile:        {profile}")
        devices = folder / "device-ca.pem"
        write_file(devices, device_ca_pem(server.authorities.device_authority), private=True)
        click.echo(f"Automated:          {server.automated_url} (server.device_ca = {str(devices)!r})")
        click.echo(f"Try: lom-agent run --devices 1 --enroll {server.enrollment_url} --ca {ca}")


def _print_push(identity: Identity, apns: str, out: str | None) -> None:
    """The push gateway, and the push certificate, which a gateway can verify by the lab's CA."""
    click.echo(f"APNs:              {apns}")
    click.echo(f"Push topic:        {TOPIC}")
    if out is not None:
        certificate = Path(out) / "push.pem"
        write_file(certificate, identity.certificate.public_bytes(Encoding.PEM))
        click.echo(f"Push certificate:  {certificate} (a gateway may have --apns-provider-ca {Path(out) / 'ca.pem'})")
