"""``lom-agent apns-identity``: the CA of the push gateway, and a push certificate for tests."""

from __future__ import annotations

import uuid
from pathlib import Path

import click

from agent.cli.signals import importing
from agent.errors import OperatorError
from agent.files import write_file
from agent.push.requests import MDM_TOPIC_PREFIX as TOPIC_PREFIX

_NEXT = """\
Next:
  1. Set the topic in the enrollment profile of your server: Topic of its com.apple.mdm payload.
  2. Upload {certificate} and {key} to your server as its push certificate.
  3. Make your server trust {ca}, and connect to the gateway instead of api.push.apple.com:443.
  4. Run: lom-agent run … --apns ADDRESS:443 --apns-tls {folder}
docs/servers.md has the commands for NanoMDM and MicroMDM, docs/push.md the steps for other servers."""


@click.command("apns-identity")
@click.option("--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="The folder for the files.")
@click.option(
    "--topic",
    metavar="TOPIC",
    help=f"The topic of the push certificate; it starts with {TOPIC_PREFIX}  [default: {TOPIC_PREFIX}External.UUID, "
    "with a new UUID]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing push certificate.")
def apns_identity(out: str, topic: str | None, overwrite: bool) -> None:
    """Make the CA of the push gateway, and a push certificate for tests.

    DIR/ca.pem and DIR/ca.key are the CA of the gateway, for --apns-tls DIR; an existing CA is always kept. push.pem and
    push.key are the push certificate for your server: issued by this CA, with the topic in its subject, like Apple's.
    Real devices and Apple's APNs refuse it.
    """
    with importing():
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        from agent.cli.apns.gateway import gateway_authority
        from agent.pki.issuing.push_certificate import push_identity
        from agent.pki.pem import certificate_pem
    folder = Path(out)
    certificate, key = folder / "push.pem", folder / "push.key"
    there = [str(path) for path in (certificate, key) if path.exists()]
    if there and not overwrite:
        raise OperatorError(
            f"{' and '.join(there)} would be overwritten, and a server with this certificate could no longer push. "
            "Name another folder with --out, or give --overwrite."
        )
    authority = gateway_authority(folder)
    topic = topic or f"{TOPIC_PREFIX}External.{uuid.uuid4()}"
    identity = push_identity(authority, topic)
    # PKCS #1: what every server reads, mdmctl only this.
    pkcs1 = identity.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    write_file(key, pkcs1, private=True)
    write_file(certificate, certificate_pem(identity.certificate))
    click.echo(f"Topic:            {topic}")
    click.echo(f"Push certificate: {certificate} (until {identity.certificate.not_valid_after_utc:%Y-%m-%d})")
    click.echo(f"Its key:          {key}")
    click.echo(f"The gateway's CA: {folder / 'ca.pem'}\n")
    click.echo(_NEXT.format(certificate=certificate, key=key, ca=folder / "ca.pem", folder=folder))
