"""RSA keys that were generated once, for tests in which no key has to be new: to generate one takes 0.1 s of CPU.

They are known to everyone and protect nothing. Each process that collects the tests reads them instead of generating a
dozen.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

END = b"-----END PRIVATE KEY-----\n"


@cache
def rsa_keys(bits: int = 2048) -> tuple[rsa.RSAPrivateKey, ...]:
    """The keys of this size: four of 2048 bits, two of 1024."""
    return tuple(key for key in _all() if key.key_size == bits)


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """The first of this size."""
    return rsa_keys(bits)[0]


@cache
def _all() -> tuple[rsa.RSAPrivateKey, ...]:
    texts = Path(__file__).with_suffix(".pem").read_bytes().split(END)[:-1]
    return tuple(_loaded(text + END) for text in texts)


def _loaded(text: bytes) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(text, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key
