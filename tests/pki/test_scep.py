"""SCEP: our client against our CA, each against the ``openssl`` command, and all parsers against hostile bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import subprocess
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from debian import need
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_cms import hostile

from agent.errors import MisuseError
from agent.pki import cms, der
from agent.pki.identity import Identity, PrivateKey
from agent.pki.scep import ca as ca_side
from agent.pki.scep import caps, client, csr, messages
from agent.pki.scep.cacert import (
    CACertificates,
    certificates_only,
    check_fingerprint,
    parse_ca_certificates,
    render_ca_certificates,
)
from agent.pki.scep.caps import LAB_CAPABILITIES, Capabilities, Capability, parse_caps, render_caps
from agent.pki.scep.envelope import Cipher, close_envelope, open_envelope
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure
from agent.pki.scep.messages import MessageType, PKIStatus, open_message

NOW = datetime.now(UTC)
CA_KEY, MAC_KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(3))
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


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, key, cert in (("ca", CA_KEY, CA.certificate), ("mac", MAC_KEY, client.self_signed(CSR, MAC_KEY, NOW))):
        (tmp_path / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / f"{name}.key").write_bytes(pem)
    (tmp_path / "csr").write_bytes(CSR)
    return tmp_path


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
def test_what_is_chosen_by_the_capabilities(answer: bytes, digest: str, cipher: Cipher, post: bool) -> None:
    capabilities = parse_caps(answer)
    assert (capabilities.digest.name, capabilities.cipher, capabilities.post) == (digest, cipher, post)


@given(st.frozensets(st.sampled_from(Capability)))
def test_capabilities_go_there_and_back(words: frozenset[Capability]) -> None:
    assert parse_caps(render_caps(Capabilities(words))) == Capabilities(words)


def test_capabilities_without_end_are_refused() -> None:
    with pytest.raises(SCEPError, match="at most 16384"):
        parse_caps(b"AES\n" * 5000)


# Who the CA is


def test_one_certificate_is_the_ca() -> None:
    content_type, body = render_ca_certificates([CA.certificate])
    assert content_type == "application/x-x509-ca-cert"
    ca = parse_ca_certificates(body)
    assert (ca.issuer, ca.recipient, ca.signers) == (CA.certificate, CA.certificate, (CA.certificate,))


def test_registration_authorities_encrypt_and_sign_by_their_usage() -> None:
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


def test_without_registration_authorities_the_last_ca_of_the_chain_is_meant() -> None:
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
        (certificates_only([]), "no certificate"),
        (certificates_only([certificate("Leaf", EC_KEY, CA)] * 2), "none of the 2 certificates"),
        (certificates_only([CA.certificate] * 17), "at most 16"),
        (render_ca_certificates([certificate("EC", EC_KEY, authority=True)])[1], "SCEP encrypts with RSA"),
        (bytes(2 << 20), "at most"),
    ],
    ids=["empty", "html", "none", "no CA", "many", "elliptic", "long"],
)
def test_answers_that_name_no_ca(body: bytes, text: str) -> None:
    with pytest.raises(SCEPError, match=text):
        parse_ca_certificates(body)


@pytest.mark.parametrize("digest", [hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.sha512])
def test_the_fingerprint_of_the_ca(digest: Callable[[bytes], hashlib._Hash]) -> None:
    fingerprint = digest(CA.certificate.public_bytes(serialization.Encoding.DER)).digest()
    check_fingerprint(CA_PARTS, fingerprint)
    with pytest.raises(SCEPError, match=f"should be {bytes(len(fingerprint)).hex()}, but is {fingerprint.hex()}"):
        check_fingerprint(CA_PARTS, bytes(len(fingerprint)))


def test_a_fingerprint_of_no_known_length() -> None:
    with pytest.raises(SCEPError, match="is 21 bytes long; 16"):
        check_fingerprint(CA_PARTS, bytes(21))


def test_the_true_ca_beside_a_false_registration_authority_is_seen() -> None:
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


def test_the_fingerprint_of_the_root_vouches_for_the_ca_under_it() -> None:
    root = Identity(certificate("Root", EC_KEY, authority=True), EC_KEY)
    sub = Identity(certificate("Sub", CA_KEY, root, authority=True), CA_KEY)
    registrar = certificate("RA", MAC_KEY, sub)
    ca = parse_ca_certificates(certificates_only([registrar, sub.certificate, root.certificate]))
    check_fingerprint(ca, root.certificate.fingerprint(hashes.SHA256()))


# The request for a certificate


@pytest.mark.parametrize("key", [MAC_KEY, EC_KEY], ids=["rsa", "ec"])
def test_a_request_says_what_the_payload_says(key: PrivateKey) -> None:
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


def test_a_request_with_nothing_asked_for() -> None:
    read = csr.read_csr(csr.build_csr(EC_KEY, None))
    assert list(read.subject) == []
    assert (read.subject_alternative_name, read.key_usage, read.challenge) == (None, None, None)


def test_attributes_in_no_order_are_read() -> None:
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
@settings(max_examples=50)
def test_any_challenge_goes_there_and_back(challenge: str) -> None:
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
def test_payloads_that_cannot_be_asked_for(values: dict[str, object]) -> None:
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
def test_requests_that_a_ca_refuses(data: bytes, reason: FailInfo) -> None:
    with pytest.raises(SCEPFailure) as caught:
        csr.read_csr(data)
    assert caught.value.fail_info is reason


# A whole transaction


@pytest.mark.parametrize("answer", [b"", b"AES\nSHA-256", b"SHA-512", b"DES3\nSHA-1", b"SCEPStandard"])
def test_a_certificate_is_granted(answer: bytes) -> None:
    question = ask(parse_caps(answer))
    message = open_message(question)
    request = ca_side.read_request(message, CA)
    assert message.header == messages.Header(MessageType.PKCS_REQ, TRANSACTION, NONCE)
    assert message.digest.name == parse_caps(answer).digest.name
    assert request.cipher is parse_caps(answer).cipher
    assert request.csr is not None
    assert (request.csr.encoded, request.csr.challenge) == (CSR, SECRET)
    issued, reply = grant(question, (CA.certificate,))
    assert receive(reply) == client.Granted(issued, (issued, CA.certificate))


def test_the_certificate_for_our_key_is_found_behind_others() -> None:
    request = ca_side.read_request(open_message(ask()), CA)
    assert request.csr is not None
    ours, others = issue(request.csr), certificate("Other", EC_KEY, CA)
    granted = receive(ca_side.cert_rep_success(request, CA, CA_NONCE, others, [CA.certificate, ours]))
    assert isinstance(granted, client.Granted)
    assert granted.certificate == ours
    with pytest.raises(SCEPError, match="none of the 1 certificates"):
        receive(ca_side.cert_rep_success(request, CA, CA_NONCE, others))


def test_a_pending_request_is_polled_for_in_the_same_name() -> None:
    first = open_message(ask())
    assert receive(ca_side.cert_rep_pending(first, CA, CA_NONCE)) == client.Pending()
    poll = ca_side.read_request(open_message(ask(message_type=MessageType.CERT_POLL)), CA)
    assert poll.message.header.transaction_id == first.header.transaction_id
    assert poll.signer == first.signer
    assert poll.issuer == CA.certificate.subject.public_bytes()
    assert poll.subject == x509.load_der_x509_csr(CSR).subject.public_bytes()
    issued = issue(csr.read_csr(CSR))
    assert receive(ca_side.cert_rep_success(poll, CA, CA_NONCE, issued)) == client.Granted(issued, (issued,))


def test_a_renewal_is_signed_and_read_by_the_old_identity() -> None:
    old = Identity(certificate("mac-1.example.org", OTHER_KEY, CA), OTHER_KEY)
    with pytest.raises(MisuseError, match="none is given"):
        ask(message_type=MessageType.RENEWAL_REQ)
    question = ask(message_type=MessageType.RENEWAL_REQ, renewed=old)
    assert ca_side.read_request(open_message(question), CA).signer == old.certificate
    issued, reply = grant(question)
    granted = client.parse_cert_rep(reply, CSR, OTHER_KEY, CA_PARTS, TRANSACTION, NONCE)
    assert granted == client.Granted(issued, (issued,))


@pytest.mark.parametrize("reason", FailInfo)
@pytest.mark.parametrize("text", [None, "wrong challenge — sorry"])
def test_a_refusal_says_why(reason: FailInfo, text: str | None) -> None:
    with pytest.raises(SCEPFailure, match=text or reason.value) as caught:
        receive(ca_side.cert_rep_failure(open_message(ask()), CA, CA_NONCE, reason, text))
    assert caught.value.fail_info is reason
    assert caught.value.kind == "scep_failure"


def test_a_refusal_with_a_number_that_no_standard_knows() -> None:
    header = messages.Header(MessageType.CERT_REP, TRANSACTION, CA_NONCE, NONCE, PKIStatus.FAILURE, 77)
    with pytest.raises(SCEPFailure, match="unknown failInfo 77") as caught:
        receive(messages.sign_message(header, None, CA.certificate, CA_KEY, hashes.SHA256()))
    assert caught.value.fail_info is None


@given(st.binary(max_size=300))
def test_a_message_goes_through_a_query_in_either_alphabet(message: bytes) -> None:
    text = messages.to_query(message)
    url_safe = base64.urlsafe_b64encode(message).decode().rstrip("=")
    for form in (text, text.replace("+", " "), text.rstrip("="), url_safe):
        assert messages.from_query(form) == message


@pytest.mark.parametrize("text", ["a", "ab!d", "ü", "a=b="])
def test_a_query_that_is_no_message(text: str) -> None:
    with pytest.raises(SCEPError, match="no base64"):
        messages.from_query(text)


# Answers not to be believed


def rogue_ca(name: str = "SCEP CA") -> Identity:
    return Identity(certificate(name, OTHER_KEY, authority=True), OTHER_KEY)


def test_an_answer_of_another_ca() -> None:
    with pytest.raises(SCEPError, match="not among the CA's certificates"):
        receive(ca_side.cert_rep_pending(open_message(ask()), rogue_ca(), CA_NONCE))


def test_an_answer_to_another_question() -> None:
    reply = ca_side.cert_rep_pending(open_message(ask()), CA, CA_NONCE)
    with pytest.raises(SCEPError, match="recipientNonce"):
        receive(reply, sender_nonce=b"x" * 16)
    with pytest.raises(SCEPError, match="is to transaction"):
        receive(reply, transaction_id="OTHER")
    with pytest.raises(SCEPError, match="expected a CertRep"):
        receive(ask(), ca=CACertificates(CA.certificate, CA.certificate, (open_message(ask()).signer,), ()))


def test_an_answer_closed_to_another_key() -> None:
    _, reply = grant(ask())
    with pytest.raises(SCEPError, match="answer cannot be opened") as caught:
        client.parse_cert_rep(reply, CSR, OTHER_KEY, CA_PARTS, TRANSACTION, NONCE)
    assert not isinstance(caught.value, SCEPFailure)


# Questions that a CA refuses


def refused(message: bytes, ca: Identity = CA) -> FailInfo | None:
    with pytest.raises(SCEPFailure) as caught:
        ca_side.read_request(open_message(message), ca)
    return caught.value.fail_info


def signed_by_mac(envelope: bytes | None, message_type: MessageType = MessageType.PKCS_REQ) -> bytes:
    header = messages.Header(message_type, TRANSACTION, NONCE)
    own = client.self_signed(CSR, MAC_KEY, NOW)
    return messages.sign_message(header, envelope, own, MAC_KEY, hashes.SHA256())


def test_questions_that_cannot_be_opened() -> None:
    assert refused(ask(), rogue_ca("Another")) is FailInfo.BAD_MESSAGE_CHECK
    assert refused(signed_by_mac(None)) is FailInfo.BAD_MESSAGE_CHECK
    assert refused(signed_by_mac(b"text")) is FailInfo.BAD_MESSAGE_CHECK
    closed = close_envelope(CSR, CA.certificate, Cipher.AES_128_CBC)
    unknown = closed.replace(der.oid(Cipher.AES_128_CBC.oid), der.oid("2.16.840.1.101.3.4.1.99"))
    assert refused(signed_by_mac(unknown)) is FailInfo.BAD_ALG


def test_questions_that_make_no_sense() -> None:
    garbage = close_envelope(b"no request", CA.certificate, Cipher.AES_128_CBC)
    assert refused(signed_by_mac(garbage)) is FailInfo.BAD_REQUEST
    assert refused(signed_by_mac(garbage, MessageType.CERT_POLL)) is FailInfo.BAD_REQUEST
    assert refused(signed_by_mac(garbage, MessageType.GET_CRL)) is FailInfo.BAD_REQUEST


def test_the_request_of_another_key_is_refused() -> None:
    stolen = close_envelope(csr.build_csr(OTHER_KEY, SUBJECT), CA.certificate, Cipher.AES_128_CBC)
    assert refused(signed_by_mac(stolen)) is FailInfo.BAD_MESSAGE_CHECK


def test_only_rsa_speaks_scep() -> None:
    with pytest.raises(MisuseError, match="RSA"):
        client.build_pki_message(
            csr.build_csr(EC_KEY, SUBJECT),
            EC_KEY,
            CA_PARTS,
            LAB_CAPABILITIES,
            "T",
            NONCE,
            now=NOW,  # type: ignore[arg-type]
        )
    with pytest.raises(MisuseError, match="RSA"):
        ca_side.read_request(open_message(ask()), Identity(certificate("EC", EC_KEY, authority=True), EC_KEY))


@pytest.mark.parametrize("cipher", Cipher)
@given(content=st.binary(max_size=64))
@settings(max_examples=10, deadline=None)
def test_every_cipher_opens_what_it_closed(cipher: Cipher, content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_envelope(close_envelope(content, CA.certificate, cipher), CA_KEY, CA.certificate)
    assert (opened.content, opened.cipher) == (content, cipher)


# Any bytes

QUESTION = ask()
POLL = ask(message_type=MessageType.CERT_POLL)
REPLY = grant(QUESTION, (CA.certificate,))[1]
REFUSAL = ca_side.cert_rep_failure(open_message(QUESTION), CA, CA_NONCE, FailInfo.BAD_TIME, "late")
ENVELOPE = close_envelope(CSR, CA.certificate, Cipher.DES3_CBC)


@given(hostile(QUESTION, POLL, REPLY, REFUSAL))
@settings(max_examples=300, deadline=None)
def test_any_message_is_read_or_a_scep_error(data: bytes) -> None:
    with contextlib.suppress(SCEPError):
        receive(data)
    with contextlib.suppress(SCEPError):
        ca_side.read_request(open_message(data), CA)


@given(hostile(ENVELOPE, certificates_only([CA.certificate])))
@settings(max_examples=200, deadline=None)
def test_what_is_signed_may_hold_any_bytes(data: bytes) -> None:
    """Behind a good signature: an envelope of any bytes, and any bytes in an envelope."""
    for envelope in (data, close_envelope(data, CA.certificate, Cipher.AES_128_CBC)):
        for kind in (MessageType.PKCS_REQ, MessageType.CERT_POLL):
            with contextlib.suppress(SCEPError):
                ca_side.read_request(open_message(signed_by_mac(envelope, kind)), CA)
    closed = close_envelope(data, open_message(QUESTION).signer, Cipher.AES_128_CBC)
    header = messages.Header(MessageType.CERT_REP, TRANSACTION, CA_NONCE, NONCE, PKIStatus.SUCCESS)
    with contextlib.suppress(SCEPError):
        receive(messages.sign_message(header, closed, CA.certificate, CA_KEY, hashes.SHA256()))


@given(hostile(CSR, csr.build_csr(EC_KEY, SUBJECT, subject_alt_name={"dNSName": "a", "ntPrincipalName": "b"})))
@settings(max_examples=300, deadline=None)
def test_any_request_is_read_or_a_scep_error(data: bytes) -> None:
    with contextlib.suppress(SCEPFailure):
        csr.read_csr(data)


@given(hostile(CA.certificate.public_bytes(serialization.Encoding.DER), certificates_only([CA.certificate] * 2)))
@settings(max_examples=300, deadline=None)
def test_any_answer_to_getcacert_is_a_ca_or_a_scep_error(data: bytes) -> None:
    with contextlib.suppress(SCEPError):
        check_fingerprint(parse_ca_certificates(data), bytes(32))


@given(st.binary(max_size=200))
def test_any_answer_to_getcacaps_is_capabilities(data: bytes) -> None:
    assert caps.parse_caps(data).cipher in Cipher


@given(st.lists(st.integers(0, 1 << 70), max_size=8), st.integers(0, 2), st.integers(0, 39))
def test_object_identifiers_go_there_and_back(arcs: list[int], first: int, second: int) -> None:
    dotted = ".".join(map(str, (first, second, *arcs)))
    encoded = der.oid(dotted)
    if len(der.read(encoded).body) <= 64:
        assert der.read(encoded).oid() == dotted


# The openssl command


def test_openssl_reads_our_request(files: Path) -> None:
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


def test_we_read_openssls_request(files: Path) -> None:
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


@pytest.mark.parametrize("answer", [b"", b"AES\nSHA-256"], ids=["3DES SHA-1", "AES SHA-256"])
def test_openssl_opens_both_layers_of_our_messages(files: Path, answer: bytes) -> None:
    """The inner layer is read with the key of the other side: the CA's for a question, the Mac's for a reply."""
    question = ask(parse_caps(answer))
    issued, reply = grant(question)
    inside: dict[str, bytes] = {}
    for name, message, who in (("question", question, "ca"), ("reply", reply, "mac")):
        (files / name).write_bytes(message)
        outer = openssl("cms", "-verify", "-binary", "-noverify", "-inform", "DER", "-in", files / name)
        (files / "envelope").write_bytes(outer.stdout)
        key = ("-inkey", files / f"{who}.key", "-recip", files / f"{who}.pem")
        inside[name] = openssl("cms", "-decrypt", "-inform", "DER", "-in", files / "envelope", *key).stdout
    assert inside["question"] == CSR
    (files / "certs").write_bytes(inside["reply"])
    shown = openssl("pkcs7", "-inform", "DER", "-in", files / "certs", "-print_certs").stdout
    assert x509.load_pem_x509_certificate(shown) == issued


@pytest.mark.parametrize("cipher", ["-aes-128-cbc", "-aes-256-cbc", "-des3"])
@pytest.mark.parametrize("options", [(), ("-stream",)], ids=["der", "ber"])
def test_we_open_openssls_envelope(files: Path, cipher: str, options: tuple[str, ...]) -> None:
    encrypt = ("cms", "-encrypt", "-binary", "-outform", "DER", "-in", files / "csr", cipher, *options)
    closed = openssl(*encrypt, files / "ca.pem").stdout
    assert (closed[1] == 0x80) == bool(options)
    assert open_envelope(closed, CA_KEY, CA.certificate).content == CSR


@pytest.mark.parametrize(("cipher", "known"), [("-des-cbc", True), ("-rc2-cbc", False)])
def test_old_ciphers_of_openssls_legacy_provider(files: Path, cipher: str, known: bool) -> None:
    encrypt = ("cms", "-encrypt", "-binary", "-outform", "DER", "-in", files / "csr", cipher, "-provider", "legacy")
    closed = openssl(*encrypt, "-provider", "default", files / "ca.pem").stdout
    if known:
        assert open_envelope(closed, CA_KEY, CA.certificate).content == CSR
        return
    with pytest.raises(SCEPFailure, match="unknown cipher") as caught:
        open_envelope(closed, CA_KEY, CA.certificate)
    assert caught.value.fail_info is FailInfo.BAD_ALG


def test_we_read_openssls_bundle_of_certificates(files: Path) -> None:
    made = openssl("crl2pkcs7", "-nocrl", "-certfile", files / "ca.pem", "-outform", "DER")
    assert parse_ca_certificates(made.stdout) == CA_PARTS
    assert cms.certificates_in(made.stdout) == (CA.certificate,)
