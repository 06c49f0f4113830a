"""The TLS floor against nginx: TLS version, cipher suite, extended master secret, kind and size of key, signature."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from http2_programs import _program, _running
from odd_certificates import signed_by_sha1
from OpenSSL import SSL
from servers import unused_port
from test_floor_of_servers import CA, checked

from agent.net.transport.floor import BelowFloor
from agent.pki.issuing.authority import SERVER_USAGE

EC = {curve.name: ec.generate_private_key(curve) for curve in (ec.SECP224R1(), ec.SECP256R1(), ec.SECP384R1())}
RSA = {bits: rsa.generate_private_key(65537, bits) for bits in (1024, 2048)}
P_256 = EC["secp256r1"]
TLS_1_2 = "ssl_protocols TLSv1.2;"
EVERYTHING = "ssl_ciphers DEFAULT:@SECLEVEL=0;"


@dataclass(frozen=True)
class Case:
    """One server, and the rule that it does not keep; ``refused``: by Macs with every macOS, in the handshake."""

    key: Any
    directives: str
    rule: str = ""
    refused: bool = False
    sha_1: bool = False


CASES = {
    "TLS 1.3, P-256": Case(P_256, "ssl_protocols TLSv1.3;"),
    "TLS 1.3, RSA of 2048 bits": Case(RSA[2048], "ssl_protocols TLSv1.3;"),
    "TLS 1.2, P-256, AES-GCM": Case(P_256, f"{TLS_1_2} ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;"),
    "TLS 1.2, P-384, AES-GCM": Case(EC["secp384r1"], f"{TLS_1_2} ssl_ciphers ECDHE-ECDSA-AES256-GCM-SHA384;"),
    "TLS 1.2, P-256, ChaCha20": Case(P_256, f"{TLS_1_2} ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305;"),
    "TLS 1.2, RSA, AES-GCM": Case(RSA[2048], f"{TLS_1_2} ssl_ciphers ECDHE-RSA-AES256-GCM-SHA384;"),
    "AES-CBC": Case(RSA[2048], f"{TLS_1_2} ssl_ciphers ECDHE-RSA-AES256-SHA384;", "cipher suite"),
    "AES-CBC, ECDSA": Case(P_256, f"{TLS_1_2} ssl_ciphers ECDHE-ECDSA-AES128-SHA;", "cipher suite"),
    "no forward secrecy": Case(RSA[2048], f"{TLS_1_2} ssl_ciphers AES128-GCM-SHA256;", "cipher suite"),
    "no extended master secret": Case(
        P_256, f"{TLS_1_2} ssl_conf_command Options -ExtendedMasterSecret;", "extended master secret"
    ),
    "RSA of 1024 bits": Case(RSA[1024], f"ssl_protocols TLSv1.3; {EVERYTHING}", "key"),
    "RSA of 1024 bits, TLS 1.2": Case(RSA[1024], f"{TLS_1_2} {EVERYTHING}", "key"),
    "P-224": Case(EC["secp224r1"], f"{TLS_1_2} {EVERYTHING}", refused=True),
    "TLS 1.1": Case(RSA[2048], f"ssl_protocols TLSv1.1; {EVERYTHING}", refused=True),
    "a signature with SHA-1": Case(P_256, f"{TLS_1_2} {EVERYTHING}", refused=True, sha_1=True),
}


def test_servers_of_nginx_are_judged(tmp_path: Path) -> None:
    program = _program("nginx")
    ports = {name: unused_port() for name in CASES}
    for number, case in enumerate(CASES.values()):
        (tmp_path / f"{number}.pem").write_bytes(_certificate_and_key(case))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(_configuration(tmp_path, ports))
    arguments = ["-p", str(tmp_path), "-e", f"{tmp_path}/error.log", "-c", str(configuration)]
    with _running([program, *arguments], ports["TLS 1.1"]):
        found = {name: _judged(port) for name, port in ports.items()}
    assert found == {name: "handshake" if case.refused else case.rule for name, case in CASES.items()}


def _certificate_and_key(case: Case) -> bytes:
    certificate = CA.issue("localhost", SERVER_USAGE, names=["localhost"], key=case.key).certificate
    if case.sha_1:
        certificate = x509.load_der_x509_certificate(signed_by_sha1(certificate, CA.identity.key))
    key: bytes = case.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + key


def _configuration(folder: Path, ports: dict[str, int]) -> str:
    servers = "".join(
        f"server {{ listen 127.0.0.1:{ports[name]} ssl; {case.directives} "
        f"ssl_certificate {number}.pem; ssl_certificate_key {number}.pem; }}\n"
        for number, (name, case) in enumerate(CASES.items())
    )
    temporary = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "" if os.getuid() else "user root;"  # else its workers could not read the folder
    return (
        f"{user} worker_processes 1; daemon off; pid {folder}/pid; events {{ worker_connections 64; }}\n"
        f"http {{ access_log off; {temporary}\n{servers}}}\n"
    )


def _judged(port: int) -> str:
    """The rule for which a Mac refuses the server; empty where it accepts it."""
    warnings: list[str] = []
    try:
        checked(port, warnings.append, refuse=False)
    except SSL.Error:
        return "handshake"
    if not warnings:
        assert checked(port, warnings.append, refuse=True) == "localhost"
        return ""
    (warning,) = warnings
    rule = next(rule for rule in ("cipher suite", "extended master secret", "key") if f": {rule}: " in warning)
    with pytest.raises(BelowFloor, match=rule):
        checked(port, warnings.append, refuse=True)
    return rule
