"""The invitation of a shard: where the conductor of its run is, how to authenticate it, and the shard's join secret.

A local worker gets it from its parent process, a joined one from a join file (JSON, readable for its owner only).
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import OperatorError
from agent.files import read_file, write_file
from agent.load.control.messages import ANY_SHARD
from agent.net.transport.addresses import address_text, parse_address
from agent.pki.certificates import CertificateError, own_certificate, read_pem

DEFAULT_JOIN_FILE = "join.json"
EXAMPLE_PORT = 7700  # in errors and in the documentation
MOST_BYTES = 64 * 1024


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard needs to join a run."""

    host: str
    """The conductor's name or address; its certificate must have it."""
    port: int
    address: str = ""
    """The numeric address to connect to; empty: ``host`` is resolved."""
    ca: bytes
    """The CA certificate of the control link, DER."""
    run: str
    """The epoch of the run."""
    secret: str
    shard: int = ANY_SHARD
    """The number of the shard."""

    def __repr__(self) -> str:
        return f"Invitation({address_text(self.host, self.port)}, shard={self.shard})"

    @property
    def target(self) -> tuple[str, int]:
        """The numeric address and port. Raises OperatorError for a name that is not found."""
        if self.address:
            return self.address, self.port
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise OperatorError(
                f"Expected the name or address of a conductor, found {self.host!r}: {error.strerror or error}. "
                "Look at --connect, or at the address in the join file."
            ) from error
        return str(found[0][4][0]), self.port


class _JoinFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    ca: str
    run: str
    secret: str
    shard: int = ANY_SHARD


def encoded(invitation: Invitation) -> bytes:
    """The content of a join file."""
    return msgspec.json.format(msgspec.json.encode(_file_of(invitation))) + b"\n"


def without_secret(invitation: Invitation) -> dict[str, Any]:
    """The keys of a join file but for the secret, which is made where the shard starts."""
    keys: dict[str, Any] = msgspec.to_builtins(_file_of(invitation))
    del keys["secret"]
    return keys


def _file_of(invitation: Invitation) -> _JoinFile:
    pem = own_certificate(invitation.ca).public_bytes(Encoding.PEM).decode("ascii")
    address = address_text(invitation.host, invitation.port)
    return _JoinFile(address, pem, invitation.run, invitation.secret, invitation.shard)


def decoded(octets: bytes, where: str, *, connect: str | None = None, shard: int | None = None) -> Invitation:
    """The invitation in a join file; ``connect`` and ``shard`` replace its address and shard. Raises OperatorError."""
    try:
        file = msgspec.json.decode(octets, type=_JoinFile)
        (certificate,) = read_pem(file.ca.encode())
        ca = certificate.public_bytes(Encoding.DER)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, CertificateError) as error:
        raise OperatorError(
            f"Expected a join file of lom-agent run --listen in {where}, found other content. Copy the file again."
        ) from error
    host, port = parse_address(connect or file.address, "--connect", EXAMPLE_PORT, names=True)
    number = file.shard if shard is None else shard
    return Invitation(host=host, port=port, ca=ca, run=file.run, secret=file.secret, shard=number)


def read_join_file(path: str, *, connect: str | None = None, shard: int | None = None) -> Invitation:
    """The invitation in the file at ``path``. Raises OperatorError."""
    return decoded(read_file(path, "the join file", MOST_BYTES), path, connect=connect, shard=shard)


class JoinFile:
    """The join file of a run, from the time at which the control link listens until the run ends."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._written = False

    def write(self, invitation: Invitation) -> None:
        """Write it, readable for its owner only. Raises OperatorError."""
        write_file(self._path, encoded(invitation), private=True)
        self._written = True

    def remove(self) -> None:
        """Remove it: nobody can join any more."""
        if self._written:
            with suppress(OSError):  # somebody removed it
                self._path.unlink()
