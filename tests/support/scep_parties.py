"""The parties of the SCEP tests: a CA, a Mac, their keys and their messages."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from debian import need
from rsa_keys import rsa_keys

from agent.pki.identity import Identity, PrivateKey
from agent.pki.scep import ca as ca_side
from agent.pki.scep import client, csr
from agent.pki.scep.cacert import parse_ca_certificates
from agent.pki.scep.caps import LAB_CAPABILITIES, Capabilities
from agent.pki.scep.messages import MessageType, open_message

NOW = datetime.now(UTC)
CA_KEY, MAC_KEY, OTHER_KEY = rsa_keys()[:3]
EC_KEY = ec.generate_private_key(ec.SECP256R1())
NONCE, CA_NONCE = b"n" * 16, b"c" * 16
SUBJECT = [[["O", "Example"]], [["CN", "mac-1.example.org"]]]
SECRET = "s3cret"


def certificate(
    name: str,
    key: PrivateKey,
    issuer: Identity | None = None,
    *,
    authority: bool | None = False,
    usage: int | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if usage is not None:
        sign, encipher = bool(usage & csr.SIGN), bool(usage & csr.ENCRYPT)
        builder = builder.add_extension(
            x509.KeyUsage(sign, False, encipher, False, False, False, False, False, False), critical=True
        )
    return builder.sign(issuer.key if issuer else key, hashes.SHA256())


def issue(request: csr.CertificateRequest) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(CA.certificate.subject)
        .public_key(request.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(CA_KEY, hashes.SHA256())
    )


CA = Identity(certificate("SCEP CA", CA_KEY, authority=True), CA_KEY)
CA_PARTS = parse_ca_certificates(CA.certificate.public_bytes(serialization.Encoding.DER))
CSR = csr.build_csr(MAC_KEY, SUBJECT, challenge=SECRET, key_usage=csr.SIGN | csr.ENCRYPT)
TRANSACTION = client.transaction_id(MAC_KEY.public_key())


def ask(
    capabilities: Capabilities = LAB_CAPABILITIES,
    message_type: MessageType = MessageType.PKCS_REQ,
    renewed: Identity | None = None,
) -> bytes:
    return client.build_pki_message(
        CSR,
        MAC_KEY,
        CA_PARTS,
        capabilities,
        TRANSACTION,
        NONCE,
        now=NOW,
        message_type=message_type,
        renewed=renewed,
    )


def receive(answer: bytes, **changed: object) -> client.Granted | client.Pending:
    expected: dict[str, object] = {"ca": CA_PARTS, "transaction_id": TRANSACTION, "sender_nonce": NONCE, **changed}
    return client.parse_cert_rep(answer, CSR, MAC_KEY, **expected)  # type: ignore[arg-type]


def grant(question: bytes, chain: tuple[x509.Certificate, ...] = ()) -> tuple[x509.Certificate, bytes]:
    request = ca_side.read_request(open_message(question), CA)
    assert request.csr is not None
    issued = issue(request.csr)
    return issued, ca_side.cert_rep_success(request, CA, CA_NONCE, issued, chain)


def openssl(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    command = need("openssl", "openssl")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, check=check, timeout=60)


def write_files(folder: Path) -> Path:
    """The CA's and the Mac's keys and certificates, and the request, as the ``openssl`` command takes them."""
    for name, key, cert in (("ca", CA_KEY, CA.certificate), ("mac", MAC_KEY, client.self_signed(CSR, MAC_KEY, NOW))):
        (folder / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(pem)
    (folder / "csr").write_bytes(CSR)
    return folder
