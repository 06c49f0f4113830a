"""``lom-agent lom-identity``: writes a LOM identity of a seed as PEM files."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.results.outputs import make_folder
from agent.files import write_file
from agent.fleet.population import Population
from agent.pki.issuing.seeded import SeededIdentities
from agent.pki.pem import certificate_pem, key_pem


def write_identity(seed: str, index: int, role: str, out: str) -> None:
    """Write the files into the folder ``out``. Raises OperatorError."""
    name = Population(seed, index + 1)[index].dns_name
    seeded = SeededIdentities(seed)
    device = role == "device"
    identity = seeded.device(index, name) if device else seeded.controller(index, name)
    make_folder(out)
    folder = Path(out)
    write_file(folder / "key.pem", key_pem(identity.key), private=True)
    for file, certificate in (
        ("cert.pem", identity.certificate),
        ("ca.pem", seeded.controller_ca if device else seeded.device_ca),
    ):
        write_file(folder / file, certificate_pem(certificate))
    click.echo(f"Certificate: {folder / 'cert.pem'} ({name}, {role})")
    click.echo(f"Key:         {folder / 'key.pem'}")
    click.echo(f"CA:          {folder / 'ca.pem'} (verifies {'Controllers' if device else 'Devices'})")
