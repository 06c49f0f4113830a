"""The capabilities, certificates and fingerprint of a SCEP CA."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scep_parties import CA, CA_KEY, CA_PARTS, EC_KEY, MAC_KEY, OTHER_KEY, certificate, openssl, write_files
from strategies_cms import hostile

from agent.pki import cms
from agent.pki.identity import Identity
from agent.pki.scep import caps, csr
from agent.pki.scep.cacert import certificates_only, check_fingerprint, parse_ca_certificates, render_ca_certificates
from agent.pki.scep.caps import Capabilities, Capability, parse_caps, render_caps
from agent.pki.scep.envelope import Cipher
from agent.pki.scep.errors import SCEPError

# Capabilities


@pytest.mark.parametrize(
    ("answer", "digest", "cipher", "post"),
    [
        (b"", "sha1", Cipher.DES3_CBC, False),
        (b"<html>404</html>\n", "sha1", Cipher.DES3_CBC, False),
        (b"SHA-256\r\nAES\r\nPOSTPKIOperation\r\n", "sha256", Cipher.AES_128_CBC, True),
        (b"scepstandard", "sha256", Cipher.AES_128_CBC, True),
        (b"SHA-512\nDES3\n SHA-1 \nRenewal", "sha512", Cipher.DES3_CBC, False),
        (b"SHA-512\nSHA-256\naes\nfuture\xff\n", "sha256", Cipher.AES_128_CBC, False),
    ],
)
def test_cipher_and_digest_follow_from_the_capabilities(answer: bytes, digest: str, cipher: Cipher, post: bool) -> None:
    capabilities = parse_caps(answer)
    assert (capabilities.digest.name, capabilities.cipher, capabilities.post) == (digest, cipher, post)


@given(st.frozensets(st.sampled_from(Capability)))
def test_capabilities_survive_a_round_trip(words: frozenset[Capability]) -> None:
    assert parse_caps(render_caps(Capabilities(words))) == Capabilities(words)


def test_too_long_capabilities_are_refused() -> None:
    with pytest.raises(SCEPError, match="at most 16,384"):
        parse_caps(b"AES\n" * 5000)


# Certificates


def test_single_certificate_is_the_ca() -> None:
    content_type, body = render_ca_certificates([CA.certificate])
    assert content_type == "application/x-x509-ca-cert"
    ca = parse_ca_certificates(body)
    assert (ca.issuer, ca.recipient, ca.signers) == (CA.certificate, CA.certificate, (CA.certificate,))


def test_ra_certificates_are_chosen_by_key_usage() -> None:
    root = Identity(certificate("Root", CA_KEY, authority=True), CA_KEY)
    sub = Identity(certificate("Sub", EC_KEY, root, authority=True), EC_KEY)
    signs = certificate("RA signs", MAC_KEY, sub, usage=csr.SIGN)
    encrypts = certificate("RA encrypts", OTHER_KEY, sub, usage=csr.ENCRYPT)
    content_type, body = render_ca_certificates([signs, root.certificate, encrypts, sub.certificate])
    assert content_type == "application/x-x509-ca-ra-cert"
    ca = parse_ca_certificates(body)
    assert ca.issuer == sub.certificate
    assert ca.recipient == encrypts
    assert ca.signers == (signs, sub.certificate)


def test_last_ca_of_the_chain_is_used_without_an_ra() -> None:
    root = Identity(certificate("Root", EC_KEY, authority=True), EC_KEY)
    sub = Identity(certificate("Sub", CA_KEY, root, authority=True, usage=csr.SIGN), CA_KEY)
    for order in ([root.certificate, sub.certificate], [sub.certificate, root.certificate]):
        ca = parse_ca_certificates(certificates_only(order))
        assert (ca.issuer, ca.recipient, ca.signers) == (sub.certificate, sub.certificate, (sub.certificate,))
        assert list(ca.certificates) == order


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "neither a certificate nor"),
        (b"<html>", "neither a certificate nor"),
        (certificates_only([]), "expected a certificate in the answer to GetCACert"),
        (certificates_only([certificate("Leaf", EC_KEY, CA)] * 2), "expected a CA among the 2 certificates"),
        (certificates_only([CA.certificate] * 17), "at most 16"),
        (
            render_ca_certificates([certificate("EC", EC_KEY, authority=True)])[1],
            "expected a certificate with an RSA key for SCEP",
        ),
        (bytes(2 << 20), "at most"),
    ],
    ids=["empty", "html", "none", "no CA", "many", "elliptic", "long"],
)
def test_answers_without_a_ca_are_refused(body: bytes, text: str) -> None:
    with pytest.raises(SCEPError, match=text):
        parse_ca_certificates(body)


@pytest.mark.parametrize("digest", [hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.sha512])
def test_ca_fingerprint_is_checked(digest: Callable[[bytes], hashlib._Hash]) -> None:
    fingerprint = digest(CA.certificate.public_bytes(serialization.Encoding.DER)).digest()
    check_fingerprint(CA_PARTS, fingerprint)
    with pytest.raises(SCEPError, match=f"fingerprint {bytes(len(fingerprint)).hex()}, found {fingerprint.hex()}"):
        check_fingerprint(CA_PARTS, bytes(len(fingerprint)))


def test_fingerprint_of_unknown_length_is_refused() -> None:
    with pytest.raises(SCEPError, match=r"expected a CAFingerprint of 16 .*, found 21"):
        check_fingerprint(CA_PARTS, bytes(21))


def test_forged_ra_beside_the_true_ca_is_refused() -> None:
    true = Identity(certificate("True", CA_KEY, authority=True), CA_KEY)
    honest = certificate("RA", MAC_KEY, true, usage=csr.SIGN | csr.ENCRYPT)
    fingerprint = true.certificate.fingerprint(hashes.SHA256())
    check_fingerprint(parse_ca_certificates(certificates_only([true.certificate, honest])), fingerprint)
    false = Identity(certificate("True", OTHER_KEY, authority=True), OTHER_KEY)
    forged = certificate("RA", MAC_KEY, false, usage=csr.SIGN | csr.ENCRYPT)
    with pytest.raises(SCEPError, match="did not issue 'CN=RA'"):
        check_fingerprint(parse_ca_certificates(certificates_only([true.certificate, forged])), fingerprint)
    both = parse_ca_certificates(certificates_only([forged, false.certificate, true.certificate]))
    with pytest.raises(SCEPError, match="did not issue"):
        check_fingerprint(both, fingerprint)


def test_root_fingerprint_covers_the_ca_below_it() -> None:
    root = Identity(certificate("Root", EC_KEY, authority=True), EC_KEY)
    sub = Identity(certificate("Sub", CA_KEY, root, authority=True), CA_KEY)
    registrar = certificate("RA", MAC_KEY, sub)
    ca = parse_ca_certificates(certificates_only([registrar, sub.certificate, root.certificate]))
    check_fingerprint(ca, root.certificate.fingerprint(hashes.SHA256()))


# Any bytes


@given(hostile(CA.certificate.public_bytes(serialization.Encoding.DER), certificates_only([CA.certificate] * 2)))
@examples(100, explored=300)
def test_any_answer_to_getcacert_is_a_ca_or_a_scep_error(data: bytes) -> None:
    with contextlib.suppress(SCEPError):
        check_fingerprint(parse_ca_certificates(data), bytes(32))


@given(st.binary(max_size=200))
def test_any_answer_to_getcacaps_is_capabilities(data: bytes) -> None:
    assert caps.parse_caps(data).cipher in Cipher


# The openssl command


def test_certificate_bundle_of_openssl_is_read(tmp_path: Path) -> None:
    made = openssl("crl2pkcs7", "-nocrl", "-certfile", write_files(tmp_path) / "ca.pem", "-outform", "DER")
    assert parse_ca_certificates(made.stdout) == CA_PARTS
    assert cms.certificates_in(made.stdout) == (CA.certificate,)
