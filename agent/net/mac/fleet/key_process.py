"""The child processes that generate RSA keys: they import this module, and so neither Twisted nor the Macs."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_NICENESS = 5  # the simulated Macs have priority


def begin_key_process() -> None:
    """Initialise a child process, with a lower priority than the Macs."""
    from agent.processes import begin_child  # only in the child: most fleets generate no keys

    begin_child()
    os.nice(_NICENESS)


def make_key(bits: int) -> bytes:
    """A new private key, in PKCS #8."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
