"""CA certificates and identities from the operator's files."""

from __future__ import annotations

from cryptography import x509

from agent.errors import OperatorError
from agent.files import read_file
from agent.pki.certificates import MAX_FILE_BYTES, CertificateError, read_certificates
from agent.pki.identity import Identity, IdentityError
from agent.pki.pem import load_identity

MAX_KEY_BYTES = 64 * 1024  # an RSA key of 16,384 bits has 13 KB in PEM


def read_anchors(paths: tuple[str, ...]) -> tuple[x509.Certificate, ...]:
    """The CA certificates in PEM or DER files. Raises OperatorError."""
    anchors: list[x509.Certificate] = []
    for path in paths:
        try:
            anchors += read_certificates(read_file(path, "the CA file", MAX_FILE_BYTES))
        except CertificateError as error:
            raise OperatorError(f"the CA file {path} has no certificate in PEM or DER: {error}") from error
    return tuple(anchors)


def read_identity(certificate: str, key: str) -> Identity:
    """The identity in two PEM files: its certificate and its chain, and its key. Raises OperatorError."""
    certificates = read_file(certificate, "the certificate file", MAX_FILE_BYTES)
    private_key = read_file(key, "the key file", MAX_KEY_BYTES)
    try:
        return load_identity(certificates, private_key)
    except IdentityError as error:
        raise OperatorError(f"{certificate} and {key}: {error}") from error
