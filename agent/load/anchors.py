"""CA certificates out of the operator's files."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from agent.errors import OperatorError


def read_anchors(paths: tuple[str, ...]) -> tuple[x509.Certificate, ...]:
    """The CA certificates in PEM or DER files. Raises OperatorError."""
    anchors: list[x509.Certificate] = []
    for path in paths:
        try:
            blob = Path(path).read_bytes()
            if b"-----BEGIN" in blob:
                anchors += x509.load_pem_x509_certificates(blob)
            else:
                anchors.append(x509.load_der_x509_certificate(blob))
        except OSError as error:
            raise OperatorError(f"the CA file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise OperatorError(f"the CA file {path} holds no certificate in PEM or DER: {error}") from error
    return tuple(anchors)
