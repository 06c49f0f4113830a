"""The file of the test CA of the Macs' own identities, which stands in for Apple's in automated enrollment."""

from __future__ import annotations

from pathlib import Path

from agent.files import read_file, write_file
from agent.pki.issuing.authorities import DEVICE_CA_NAME
from agent.pki.issuing.authority import Authority
from agent.pki.issuing.device_ca import device_ca_pem, read_device_ca

MAX_BYTES = 1024 * 1024


def device_ca_of(path: str) -> bytes:
    """The CA in this file, or a new one, which is written to it. Raises OperatorError."""
    file = Path(path)
    if not file.exists():
        write_file(file, device_ca_pem(Authority.create(DEVICE_CA_NAME)), private=True)
    octets = read_file(path, "the CA of the Macs' identities", MAX_BYTES)
    read_device_ca(octets, path)
    return octets
