"""Untrusted certificates: every part is parsed or refused with our error, and no other module loads certificates."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import lom_agent_here
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from odd_certificates import UNREADABLE, edited, pem_of
from OpenSSL import SSL, crypto
from profile_parts import payload, profile
from strategies_cms import hostile
from twisted.internet.task import Clock

import agent
from agent.errors import OperatorError, PeerError
from agent.net.transport.anchors import read_anchors
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki import der
from agent.pki.certificates import (
    MAX_BYTES,
    MAX_CERTIFICATES,
    MAX_FILE_BYTES,
    CertificateError,
    for_openssl,
    from_openssl,
    read_certificate,
    read_certificates,
    read_openssl,
    read_pem,
)
from agent.pki.cms import CMSError, certificates_in
from agent.pki.identity import IdentityError, load_pkcs12
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.pki.pem import key_pem, load_identity
from agent.pki.purpose import Purpose
from agent.pki.scep.cacert import parse_ca_certificates
from agent.pki.scep.errors import SCEPError
from agent.pki.verify import PeerCheck, controller_judge, device_judge, server_judge, verify_chain
from agent.profiles.certificates import certificate_of
from agent.profiles.errors import ProfileError
from agent.profiles.profile import Payload
from agent.servers.configs import Trust
from agent.servers.pool import connector

NAME = "mac-1.lom.example.com"
ROOT = Authority.create("Root")
LEAF = ROOT.issue(NAME, LOM_USAGE, names=[NAME])
GOOD = LEAF.certificate.public_bytes(Encoding.DER)
ODD = {name: edited(LEAF.certificate, ROOT.identity.key, changes) for name, changes in UNREADABLE.items()}
every_odd_one = pytest.mark.parametrize("octets", ODD.values(), ids=ODD.keys())
JUDGES = [device_judge(NAME), controller_judge, server_judge(NAME)]


# The module itself


@every_odd_one
def test_certificate_with_an_unreadable_part_is_refused(octets: bytes) -> None:
    with pytest.raises(CertificateError, match="cannot be read"):
        read_certificate(octets)
    with pytest.raises(CertificateError, match="cannot be read"):
        read_pem(pem_of(GOOD) + pem_of(octets))


def test_valid_certificate_is_read_as_pem_or_der_and_cached() -> None:
    assert read_certificates(GOOD) == read_certificates(pem_of(GOOD)) == (LEAF.certificate,)
    assert read_pem(pem_of(GOOD) * 3) == (LEAF.certificate,) * 3
    assert read_certificate(GOOD) is read_certificate(bytes(bytearray(GOOD)))
    assert from_openssl(for_openssl(LEAF.certificate)) == LEAF.certificate


@pytest.mark.parametrize(
    ("read", "octets"),
    [
        (read_certificate, der.encode(der.SEQUENCE, bytes(MAX_BYTES))),
        (read_pem, bytes(MAX_FILE_BYTES + 1)),
        (read_pem, pem_of(b"\x30\x00") * (MAX_CERTIFICATES + 1)),
    ],
)
def test_too_large_certificate_is_refused_before_parsing(read: Callable[[bytes], object], octets: bytes) -> None:
    with pytest.raises(CertificateError, match="at most"):
        read(octets)


@given(hostile(GOOD, *ODD.values()))
@examples(150, explored=400)
def test_any_bytes_are_a_certificate_or_certificate_error(octets: bytes) -> None:
    for read in (read_certificate, read_certificates, read_pem):
        for given_octets in (octets, pem_of(octets)):
            with contextlib.suppress(CertificateError):
                read(given_octets)
    with contextlib.suppress(crypto.Error, CertificateError):
        assert read_openssl(crypto.load_certificate(crypto.FILETYPE_ASN1, octets)).public_key() is not None


# The callers


def packed(octets: bytes) -> bytes:
    """A PKCS12 with this certificate and the key of LEAF, by hand: without encryption and MAC."""
    data = der.oid("1.2.840.113549.1.7.1")
    key = LEAF.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    key_bag = der.sequence(der.oid("1.2.840.113549.1.12.10.1.1"), der.encode(der.CONTEXT_0, key))
    value = der.encode(der.CONTEXT_0, der.encode(der.OCTET_STRING, octets))
    held = der.sequence(der.oid("1.2.840.113549.1.9.22.1"), value)
    bag = der.sequence(der.oid("1.2.840.113549.1.12.10.1.3"), der.encode(der.CONTEXT_0, held))

    def content(inside: bytes) -> bytes:
        return der.sequence(data, der.encode(der.CONTEXT_0, der.encode(der.OCTET_STRING, inside)))

    return der.sequence(b"\x02\x01\x03", content(der.sequence(content(der.sequence(key_bag, bag)))))


def in_cms(octets: bytes) -> bytes:
    """A SignedData with this certificate only."""
    content = der.sequence(der.oid("1.2.840.113549.1.7.1"))
    carried = der.encode(der.CONTEXT_0, octets)
    signed_data = der.sequence(b"\x02\x01\x01", der.set_of(), content, carried, der.set_of())
    return der.sequence(der.oid("1.2.840.113549.1.7.2"), der.encode(der.CONTEXT_0, signed_data))


def payload_of(octets: bytes) -> Payload:
    return profile(payload("com.apple.security.root", "ROOT", PayloadContent=octets)).payload("ROOT")


CALLERS: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
    "PKCS12 payload": (lambda octets: load_pkcs12(packed(octets), None), IdentityError),
    "certificate payload": (lambda octets: certificate_of(payload_of(octets)), ProfileError),
    "certificate payload in PEM": (lambda octets: certificate_of(payload_of(pem_of(octets))), ProfileError),
    "--cert": (lambda octets: load_identity(pem_of(octets), key_pem(LEAF.key)), IdentityError),
    "the second in --cert": (
        lambda octets: load_identity(pem_of(GOOD) + pem_of(octets), key_pem(LEAF.key)),
        IdentityError,
    ),
    "CMS": (lambda octets: certificates_in(in_cms(octets)), CMSError),
    "GetCACert of one": (parse_ca_certificates, SCEPError),
    "GetCACert of several": (lambda octets: parse_ca_certificates(in_cms(octets)), SCEPError),
    "a server's CAs": (
        lambda octets: connector(Clock(), Resolver(Clock(), None), Trust(pem_of(octets).decode(), system=False)),
        OperatorError,
    ),
}
each_caller = pytest.mark.parametrize(("read", "error"), CALLERS.values(), ids=CALLERS.keys())


@each_caller
@every_odd_one
def test_every_reader_refuses_an_unreadable_certificate_with_its_own_error(
    read: Callable[[bytes], object], error: type[Exception], octets: bytes
) -> None:
    with pytest.raises(error):
        read(octets)


@each_caller
@given(octets=hostile(GOOD))
@examples(15, explored=40)
def test_every_reader_gives_a_certificate_or_its_own_error_for_any_bytes(
    read: Callable[[bytes], object], error: type[Exception], octets: bytes
) -> None:
    with contextlib.suppress(error):
        read(octets)


@each_caller
def test_every_reader_reads_a_valid_certificate(read: Callable[[bytes], object], error: type[Exception]) -> None:
    """The cases above fail because of their certificate; SCEP also requires an RSA key."""
    if error is SCEPError:
        with pytest.raises(SCEPError, match="RSA"):
            read(GOOD)
    else:
        assert read(GOOD)


@every_odd_one
@pytest.mark.parametrize("in_pem", [True, False])
def test_unreadable_certificate_in_a_ca_file_raises_operator_error(tmp_path: Path, octets: bytes, in_pem: bool) -> None:
    file = tmp_path / "ca"
    file.write_bytes(pem_of(octets) if in_pem else octets)
    with pytest.raises(OperatorError, match=f"CA file {file}"):
        read_anchors((str(file),))


def test_endless_ca_file_is_refused() -> None:
    with pytest.raises(OperatorError, match="at most"):
        read_anchors(("/dev/zero",))


def test_commands_report_unreadable_ca_and_cert_files(tmp_path: Path) -> None:
    odd, good, key = tmp_path / "odd.pem", tmp_path / "good.pem", tmp_path / "key.pem"
    odd.write_bytes(pem_of(ODD["version 4"]))
    good.write_bytes(pem_of(GOOD))
    key.write_bytes(key_pem(LEAF.key))
    for cert, ca in ((odd, good), (good, odd)):
        done = lom_agent_here("lom-device", "--cert", str(cert), "--key", str(key), "--ca", str(ca))
        assert done.returncode != 0
        assert b"3 is not a valid X509 version" in done.stderr
        assert b"Traceback" not in done.stderr


# Certificates of peers, from OpenSSL


@every_odd_one
@pytest.mark.parametrize("judge", JUDGES)
def test_peer_with_an_odd_certificate_is_refused_or_identified(
    octets: bytes, judge: Callable[[x509.Certificate], str]
) -> None:
    """A judge reads names, usages and dates; a fault anywhere else in the certificate is OpenSSL's to find."""
    try:
        shown = crypto.load_certificate(crypto.FILETYPE_ASN1, octets)
    except crypto.Error:
        return
    check = PeerCheck(judge)
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    taken = check(connection, shown, 0, 0, 1)
    assert taken == (check.rejected is None)
    if taken:
        assert check.name == NAME
    for error in range(1, 95):
        refusing = PeerCheck(judge)
        assert not refusing(connection, shown, error, 0, 0)
        assert refusing.rejected is not None


def judge_chains_with(octets: bytes, judge: Callable[[x509.Certificate], str]) -> None:
    """As a peer's own certificate, as a CA in its chain, and as an anchor."""
    try:
        found = x509.load_der_x509_certificate(octets)  # read in part only, as an identity in memory is
    except Exception:  # noqa: BLE001  # no certificate object, nothing to judge
        return
    for chain in ([found], [LEAF.certificate, found]):
        for anchors in ([ROOT.certificate], [found]):
            with contextlib.suppress(PeerError):
                verify_chain(chain, anchors, judge, Purpose.TLS_SERVER)
            with contextlib.suppress(PeerError):
                TLSContexts().trusts(chain, anchors)


@every_odd_one
@pytest.mark.parametrize("judge", JUDGES)
def test_chain_with_an_odd_certificate_is_judged_or_refused(
    octets: bytes, judge: Callable[[x509.Certificate], str]
) -> None:
    judge_chains_with(octets, judge)


@given(hostile(GOOD), st.sampled_from(JUDGES))
@examples(60, explored=150)
def test_a_chain_of_any_certificates_is_judged_or_refused(
    octets: bytes, judge: Callable[[x509.Certificate], str]
) -> None:
    judge_chains_with(octets, judge)


# No other loader

LOADERS = {
    "get_peer_certificate", "get_peer_cert_chain", "getPeerCertificate", "to_cryptography",
    "from_cryptography", "load_certificate", "load_certificates", "load_der_pkcs7_certificates",
    "load_der_x509_certificate", "load_key_and_certificates", "load_pem_pkcs7_certificates",
    "load_pem_x509_certificate", "load_pem_x509_certificates", "pkcs7_decrypt_der",
}  # fmt: skip
LOADS = re.compile(rf"\b(?:{'|'.join(LOADERS)}|as_cryptography|load_pkcs12)\b")  # other modules need no parsing
FOLDER = Path(agent.__file__).parent
ALLOWED = FOLDER / "pki" / "certificates.py"


def calls_of_loaders(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each use of a loader, under any name of its module."""
    if not LOADS.search(source):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in LOADERS:
            yield node.lineno, node.attr
        elif isinstance(node, ast.keyword) and node.arg == "as_cryptography":  # of any method of pyOpenSSL
            yield node.lineno, node.arg
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in LOADERS)
        elif isinstance(node, ast.Attribute) and node.attr == "load_pkcs12":  # cryptography's; ours is a plain name
            yield node.lineno, node.attr


def test_only_certificates_module_calls_certificate_loaders() -> None:
    found = {
        f"{path.relative_to(FOLDER)}:{line} {name}"
        for path in FOLDER.rglob("*.py")
        if path != ALLOWED
        for line, name in calls_of_loaders(path.read_text(encoding="utf-8"))
    }
    assert not found
    assert {name for _, name in calls_of_loaders(ALLOWED.read_text(encoding="utf-8"))} >= {
        "load_der_x509_certificate",
        "load_pem_x509_certificates",
        "load_key_and_certificates",
        "to_cryptography",
        "get_peer_certificate",
    }


@pytest.mark.parametrize(
    "source",
    [
        "x509.load_der_x509_certificate(octets)",
        "from cryptography.x509 import load_pem_x509_certificate as read",
        "crypto.load_certificate(1, octets)",
        "tls.get_peer_certificate()",
        "tls.get_verified_chain(as_cryptography=True)",
        "pkcs12.load_pkcs12(octets, None)",
    ],
)
def test_call_of_a_certificate_loader_is_detected(source: str) -> None:
    assert list(calls_of_loaders(source))
