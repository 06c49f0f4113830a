"""``lom-agent attestation-root``: the root of the attestations of all simulated Macs."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.signals import importing


@click.command("attestation-root")
@click.option(
    "--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to this file.  [default: standard output]"
)
def attestation_root(out: str | None) -> None:
    """Print the root certificate of the simulated Macs' attestations.

    Your server needs it as a trust anchor for attestations, in place of Apple's. It is in PEM, and the same for every
    fleet. Anyone can make its keys: use it on test servers only.
    """
    with importing():
        from agent.files import write_file
        from agent.pki.issuing.attestation import attestation_authority
        from agent.pki.pem import certificate_pem
    pem = certificate_pem(attestation_authority().root)
    if out is None:
        click.echo(pem.decode("ascii"), nl=False)
    else:
        write_file(Path(out), pem)
        click.echo(f"Attestation root: {out}")
