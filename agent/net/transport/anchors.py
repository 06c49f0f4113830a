"""Reads the operator's CA certificate files."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from agent.errors import OperatorError
from agent.pki.certificates import MAX_FILE_BYTES, CertificateError, read_certificates


def read_anchors(paths: tuple[str, ...]) -> tuple[x509.Certificate, ...]:
    """The CA certificates in PEM or DER files. Raises OperatorError."""
    anchors: list[x509.Certificate] = []
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                anchors += read_certificates(file.read(MAX_FILE_BYTES + 1))
        except OSError as error:
            raise OperatorError(f"the CA file {path} cannot be read: {error.strerror}") from error
        except CertificateError as error:
            raise OperatorError(f"the CA file {path} has no certificate in PEM or DER: {error}") from error
    return tuple(anchors)
