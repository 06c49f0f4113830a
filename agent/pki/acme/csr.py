"""The certificate request of an ACME payload. Source: apple-schema profiles/com.apple.security.acme.yaml."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.pki import der
from agent.pki.acme.errors import ACMEError
from agent.pki.identity import PrivateKey
from agent.pki.scep.csr import ENCRYPT, SIGN, alternative_names, key_usage_of, subject_name

PERMANENT_IDENTIFIER_OID = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3")  # id-on-permanentIdentifier, RFC 4043


def build_csr(
    private_key: PrivateKey,
    client_identifier: str,
    subject: object,
    *,
    subject_alt_name: object = None,
    key_usage: int = 0,
    extended_key_usage: Sequence[str] = (),
) -> bytes:
    """The DER of a request for ``private_key``, with the payload's values after substitution of their variables.

    The client identifier is a permanentIdentifier (RFC 4043) in the subjectAltName. Raises SCEPError for a Subject or
    SubjectAltName that cannot be written, ACMEError for other values.
    """
    identifier = x509.OtherName(PERMANENT_IDENTIFIER_OID, permanent_identifier(client_identifier))
    names = [identifier, *alternative_names(subject_alt_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(subject))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if key_usage & (SIGN | ENCRYPT):
        builder = builder.add_extension(key_usage_of(key_usage), critical=True)
    if extended_key_usage:
        builder = builder.add_extension(extended_key_usage_of(extended_key_usage), critical=False)
    large = isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.key_size > 256
    try:
        return builder.sign(private_key, hashes.SHA384() if large else hashes.SHA256()).public_bytes(Encoding.DER)
    except ValueError as error:
        raise ACMEError(f"the certificate request cannot be written: {error}") from error


def permanent_identifier(value: str) -> bytes:
    """The DER of a PermanentIdentifier without an assigner. Raises ACMEError."""
    try:
        return der.sequence(der.encode(der.UTF8_STRING, value.encode()))
    except UnicodeEncodeError as error:
        raise ACMEError(f"the client identifier is not Unicode text: {error}") from error


def extended_key_usage_of(oids: Sequence[str]) -> x509.ExtendedKeyUsage:
    """The extension with these object identifiers. Raises ACMEError."""
    try:
        return x509.ExtendedKeyUsage([x509.ObjectIdentifier(each) for each in oids])
    except ValueError as error:
        raise ACMEError(f"expected object identifiers for the ExtendedKeyUsage, found {list(oids)!r:.200}") from error
