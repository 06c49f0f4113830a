"""An RSA key stored as one of its primes, a tenth of its size: the rest follows from the certificate's modulus.

Source: RFC 8017, 3.2 and appendix A.1.2 (RSAPrivateKey).
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.pki import der


def prime_of(certificate: x509.Certificate, key: bytes) -> bytes:
    """A prime of ``key``, an RSAPrivateKey in DER; empty if it is not the certificate's RSA key."""
    public = certificate.public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        return b""
    values = [int.from_bytes(one.body, "big") for one in der.read(key).children() if one.tag == der.INTEGER]
    numbers = public.public_numbers()
    if len(values) != 9 or values[1:3] != [numbers.n, numbers.e] or values[4] * values[5] != numbers.n:
        return b""
    return values[4].to_bytes((values[4].bit_length() + 7) // 8, "big")


def key_of(certificate: x509.Certificate, prime: bytes) -> bytes:
    """The RSAPrivateKey in DER. Raises TypeError for a certificate that is not RSA."""
    public = certificate.public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise TypeError("Expected an RSA certificate.")
    numbers = public.public_numbers()
    p = int.from_bytes(prime, "big")
    q = numbers.n // p
    d = rsa.rsa_recover_private_exponent(numbers.e, p, q)
    key = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), numbers)
    private = key.private_key(unsafe_skip_rsa_key_validation=True)  # checked before
    return private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
