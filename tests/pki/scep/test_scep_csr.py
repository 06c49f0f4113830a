"""Certificate requests: from a payload's values to PKCS#10 and back."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scep_parties import CSR, EC_KEY, MAC_KEY, SECRET, SUBJECT, openssl, write_files
from strategies_cms import hostile

from agent.pki import der
from agent.pki.identity import PrivateKey
from agent.pki.scep import csr
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


@pytest.mark.parametrize("key", [MAC_KEY, EC_KEY], ids=["rsa", "ec"])
def test_csr_has_the_payloads_values(key: PrivateKey) -> None:
    subject = [
        [["C", "DE"]],
        [["O", "Example"], ["OU", "Lab"]],
        [["cn", "Mäc"]],
        [["1.2.5.3", "bar"]],
        [["E", "a@b.c"]],
        [["DC", "example"]],
    ]
    names = {
        "rfc822Name": "mac@example.org",
        "dNSName": ["mac-1.example.org", "mac-1"],
        "uniformResourceIdentifier": ["https://example.org/1"],
        "ntPrincipalName": "mac$@Example",
        "Critical": True,
    }
    read = csr.read_csr(
        csr.build_csr(key, subject, subject_alt_name=names, challenge="Paß", key_usage=csr.SIGN | csr.ENCRYPT)
    )
    assert read.public_key == key.public_key()
    assert (
        read.subject.rfc4514_string()
        == "DC=example,1.2.840.113549.1.9.1=a@b.c,1.2.5.3=bar,CN=Mäc,OU=Lab+O=Example,C=DE"
    )
    san = read.subject_alternative_name
    assert san is not None
    assert san.get_values_for_type(x509.RFC822Name) == ["mac@example.org"]
    assert san.get_values_for_type(x509.DNSName) == ["mac-1.example.org", "mac-1"]
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == ["https://example.org/1"]
    (principal,) = san.get_values_for_type(x509.OtherName)
    assert principal == x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x0cmac$@Example")
    assert read.key_usage is not None
    assert (read.key_usage.digital_signature, read.key_usage.key_encipherment) == (True, True)
    assert read.challenge == "Paß"


def test_csr_without_options_is_valid() -> None:
    read = csr.read_csr(csr.build_csr(EC_KEY, None))
    assert list(read.subject) == []
    assert (read.subject_alternative_name, read.key_usage, read.challenge) == (None, None, None)


def test_csr_attributes_are_read_in_any_order() -> None:
    """So strongSwan writes them: the extensions first."""
    info, algorithm, signature = der.read(CSR).children()
    *parts, attributes = info.children()
    backwards = der.encode(der.CONTEXT_0, b"".join(one.encoded for one in reversed(attributes.children())))
    assert backwards != attributes.encoded
    swapped = der.sequence(*(part.encoded for part in parts), backwards)
    signed = MAC_KEY.sign(swapped, padding.PKCS1v15(), hashes.SHA256())
    request = der.sequence(swapped, algorithm.encoded, der.encode(der.BIT_STRING, b"\0" + signed))
    read = csr.read_csr(request)
    assert (read.encoded, read.challenge) == (request, SECRET)
    with pytest.raises(SCEPFailure, match="not its key's own"):
        csr.read_csr(der.sequence(swapped, algorithm.encoded, signature.encoded))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
@examples(50)
def test_any_challenge_survives_a_round_trip(challenge: str) -> None:
    assert csr.read_csr(csr.build_csr(EC_KEY, SUBJECT, challenge=challenge)).challenge == challenge


@pytest.mark.parametrize(
    "values",
    [
        {"subject": "CN=x"},
        {"subject": ["CN", "x"]},
        {"subject": [[["CN", "x", "y"]]]},
        {"subject": [[["CN", 5]]]},
        {"subject": [[["NOPE", "x"]]]},
        {"subject": [[["C", "Germany"]]]},
        {"subject": [[["CN", ""]]]},
        {"subject": [[["E", "ä"]]]},
        {"subject": [[]]},
        {"subject": [[["CN", "\ud800"]]]},
        {"subject": [[["CN", "x"]]] * 65},
        {"subject_alt_name": ["mac"]},
        {"subject_alt_name": {"dNSName": 5}},
        {"subject_alt_name": {"dNSName": "mäc"}},
        {"subject_alt_name": {"dNSName": ["a"] * 65}},
        {"subject_alt_name": {"rfc822Name": [""]}},
        {"subject_alt_name": {"ntPrincipalName": "\ud800"}},
        {"challenge": "x" * 20_000},
        {"challenge": "\ud800"},
    ],
    ids=str,
)
def test_payloads_without_a_valid_csr_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SCEPError):
        csr.build_csr(EC_KEY, **{"subject": SUBJECT, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", FailInfo.BAD_REQUEST),
        (bytes(300_000), FailInfo.BAD_REQUEST),
        (CSR[:-1] + bytes((CSR[-1] ^ 1,)), FailInfo.BAD_MESSAGE_CHECK),
        (CSR.replace(b"mac-1", b"mac-2"), FailInfo.BAD_MESSAGE_CHECK),
    ],
    ids=["empty", "long", "signature", "subject"],
)
def test_invalid_csr_is_refused_by_the_ca(data: bytes, reason: FailInfo) -> None:
    with pytest.raises(SCEPFailure) as caught:
        csr.read_csr(data)
    assert caught.value.fail_info is reason


# Any bytes


@given(hostile(CSR, csr.build_csr(EC_KEY, SUBJECT, subject_alt_name={"dNSName": "a", "ntPrincipalName": "b"})))
@examples(100, explored=300)
def test_any_request_is_read_or_a_scep_error(data: bytes) -> None:
    with contextlib.suppress(SCEPFailure):
        csr.read_csr(data)


# The openssl command


def test_openssl_reads_the_csr(files: Path) -> None:
    names = {"dNSName": "mac-1.example.org", "rfc822Name": "a@b.c", "ntPrincipalName": "mac@example"}
    (files / "csr").write_bytes(
        csr.build_csr(MAC_KEY, SUBJECT, subject_alt_name=names, challenge=SECRET, key_usage=csr.SIGN)
    )
    shown = openssl("req", "-inform", "DER", "-in", files / "csr", "-verify", "-noout", "-text")
    text = shown.stdout.decode()
    assert b"self-signature verify OK" in shown.stderr
    for wanted in (
        "O = Example, CN = mac-1.example.org",
        "challengePassword        :s3cret",
        "DNS:mac-1.example.org",
        "email:a@b.c",
        "othername: UPN::mac@example",
        "Digital Signature",
    ):
        assert wanted in text
    parsed = openssl("asn1parse", "-inform", "DER", "-in", files / "csr").stdout.decode()
    assert "PRINTABLESTRING   :s3cret" in parsed


def test_csr_of_openssl_is_read(files: Path) -> None:
    settings_file = files / "req.cnf"
    settings_file.write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=at\nreq_extensions=ex\n[dn]\nCN=mac\n"
        "[at]\nchallengePassword=top secret\n[ex]\nsubjectAltName=DNS:mac.example\nkeyUsage=keyEncipherment\n"
    )
    made = openssl("req", "-new", "-key", files / "mac.key", "-config", settings_file, "-outform", "DER")
    read = csr.read_csr(made.stdout)
    assert (read.challenge, read.subject.rfc4514_string()) == ("top secret", "CN=mac")
    assert read.subject_alternative_name is not None
    assert read.subject_alternative_name.get_values_for_type(x509.DNSName) == ["mac.example"]
    assert read.key_usage is not None
    assert (read.key_usage.digital_signature, read.key_usage.key_encipherment) == (False, True)
