"""The test CA of the Macs' own identities in a file, which stands in for Apple's: certificate and key in PEM.

A server that is to accept automated enrollments has to trust the certificate in it. No I/O.
"""

from __future__ import annotations

from agent.errors import OperatorError
from agent.pki.identity import IdentityError
from agent.pki.issuing.authority import Authority
from agent.pki.pem import certificate_pem, key_pem, load_identity


def device_ca_pem(authority: Authority) -> bytes:
    """The file's content: the certificate, then the key."""
    return certificate_pem(authority.certificate) + key_pem(authority.identity.key)


def read_device_ca(octets: bytes, path: str) -> Authority:
    """The CA in the bytes of a file. Raises OperatorError."""
    try:
        return Authority(load_identity(octets, octets))
    except IdentityError as error:
        raise OperatorError(f"Expected a CA certificate and its key in {path}: {error}.") from error
