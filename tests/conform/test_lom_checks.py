"""Parts of the LOM checks that no defect of the lab shows: chains with intermediate CAs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.conform.reading.lom import leads_to


def issued(name: str, by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None) -> tuple:
    """A certificate with its key; self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key if by is None else by[1], hashes.SHA256())
    )
    return certificate, key


def test_a_chain_leads_to_a_ca_directly_through_others_or_not_at_all() -> None:
    root, other = issued("root"), issued("root")
    middle = issued("middle", root)
    lower = issued("lower", middle)
    leaf = issued("leaf", lower)
    chain = (leaf[0], middle[0], lower[0])  # in any order
    assert leads_to(chain, [other[0], root[0]])
    assert leads_to(chain, [lower[0]])
    assert leads_to((root[0],), [root[0]])
    assert not leads_to((leaf[0], middle[0]), [root[0]])  # without the one between
    assert not leads_to(chain, [other[0]])  # of the same name, with another key
    assert not leads_to((root[0], root[0], root[0]), [other[0]])  # its own issuer: an end is found
