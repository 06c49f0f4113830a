"""SCEP transactions: our client against our CA, messages that each refuses, and malformed bytes."""

from __future__ import annotations

import base64
import contextlib
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from rsa_keys import rsa_key
from scep_parties import (
    CA,
    CA_KEY,
    CA_NONCE,
    CA_PARTS,
    CSR,
    EC_KEY,
    MAC_KEY,
    NONCE,
    NOW,
    OTHER_KEY,
    SECRET,
    SUBJECT,
    TRANSACTION,
    ask,
    certificate,
    grant,
    issue,
    receive,
)
from scep_pending import cert_rep_pending
from strategies_cms import hostile

from agent.errors import MisuseError
from agent.pki import der
from agent.pki.identity import Identity
from agent.pki.scep import ca as ca_side
from agent.pki.scep import client, csr, messages
from agent.pki.scep.cacert import CACertificates, certificates_only
from agent.pki.scep.caps import LAB_CAPABILITIES, parse_caps
from agent.pki.scep.envelope import Cipher, close_envelope, open_envelope
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure
from agent.pki.scep.messages import MessageType, PKIStatus, open_message

# A whole transaction


@pytest.mark.parametrize("answer", [b"", b"AES\nSHA-256", b"SHA-512", b"DES3\nSHA-1", b"SCEPStandard"])
def test_scep_request_is_granted(answer: bytes) -> None:
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


def test_certificate_for_the_key_is_found_among_others() -> None:
    request = ca_side.read_request(open_message(ask()), CA)
    assert request.csr is not None
    ours, others = issue(request.csr), certificate("Other", EC_KEY, CA)
    granted = receive(ca_side.cert_rep_success(request, CA, CA_NONCE, others, [CA.certificate, ours]))
    assert isinstance(granted, client.Granted)
    assert granted.certificate == ours
    with pytest.raises(SCEPError, match="found 1 others"):
        receive(ca_side.cert_rep_success(request, CA, CA_NONCE, others))


def test_macs_share_the_certificates_of_their_ca_alone() -> None:
    _issued, reply = grant(ask(), (CA.certificate,))
    one, other = receive(reply), receive(reply)
    assert isinstance(one, client.Granted)
    assert isinstance(other, client.Granted)
    assert one.certificate is not other.certificate  # that of one Mac is not cached
    assert one.certificates[1] is other.certificates[1]


def test_pending_request_is_polled_with_the_same_name() -> None:
    first = open_message(ask())
    assert receive(cert_rep_pending(first, CA, CA_NONCE)) == client.Pending()
    poll = ca_side.read_request(open_message(ask(message_type=MessageType.CERT_POLL)), CA)
    assert poll.message.header.transaction_id == first.header.transaction_id
    assert poll.signer == first.signer
    assert poll.issuer == CA.certificate.subject.public_bytes()
    assert poll.subject == x509.load_der_x509_csr(CSR).subject.public_bytes()
    issued = issue(csr.read_csr(CSR))
    assert receive(ca_side.cert_rep_success(poll, CA, CA_NONCE, issued)) == client.Granted(issued, (issued,))


def test_answer_without_content_equals_empty_content() -> None:
    header = messages.Header(MessageType.CERT_REP, TRANSACTION, CA_NONCE, NONCE, PKIStatus.PENDING)
    for content in (None, b""):
        answer = messages.sign_message(header, content, CA.certificate, CA_KEY, hashes.SHA256())
        assert receive(answer) == client.Pending()


def test_renewal_uses_the_old_identity() -> None:
    old = Identity(certificate("mac-1.example.org", OTHER_KEY, CA), OTHER_KEY)
    with pytest.raises(MisuseError, match="Expected the identity to renew"):
        ask(message_type=MessageType.RENEWAL_REQ)
    question = ask(message_type=MessageType.RENEWAL_REQ, renewed=old)
    assert ca_side.read_request(open_message(question), CA).signer == old.certificate
    issued, reply = grant(question)
    granted = client.parse_cert_rep(reply, CSR, OTHER_KEY, CA_PARTS, TRANSACTION, NONCE)
    assert granted == client.Granted(issued, (issued,))


@pytest.mark.parametrize("reason", FailInfo)
@pytest.mark.parametrize("text", [None, "wrong challenge — sorry"])
def test_refusal_has_its_reason(reason: FailInfo, text: str | None) -> None:
    with pytest.raises(SCEPFailure, match=text or reason.value) as caught:
        receive(ca_side.cert_rep_failure(open_message(ask()), CA, CA_NONCE, reason, text))
    assert caught.value.fail_info is reason
    assert caught.value.kind == "scep_failure"


def test_refusal_with_an_unknown_failinfo_is_reported() -> None:
    header = messages.Header(MessageType.CERT_REP, TRANSACTION, CA_NONCE, NONCE, PKIStatus.FAILURE, 77)
    with pytest.raises(SCEPFailure, match="unknown failInfo 77") as caught:
        receive(messages.sign_message(header, b"", CA.certificate, CA_KEY, hashes.SHA256()))
    assert caught.value.fail_info is None


@given(st.binary(max_size=300))
def test_message_in_a_query_is_read_in_either_base64_alphabet(message: bytes) -> None:
    text = messages.to_query(message)
    url_safe = base64.urlsafe_b64encode(message).decode().rstrip("=")
    for form in (text, text.replace("+", " "), text.rstrip("="), url_safe):
        assert messages.from_query(form) == message


@pytest.mark.parametrize("text", ["a", "ab!d", "ü", "a=b="])
def test_query_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(SCEPError, match="is not base64"):
        messages.from_query(text)


# Answers that the client refuses


def rogue_ca(name: str = "SCEP CA") -> Identity:
    return Identity(certificate(name, OTHER_KEY, authority=True), OTHER_KEY)


def test_answer_of_another_ca_is_refused() -> None:
    with pytest.raises(SCEPError, match="expected an answer signed by a certificate from GetCACert"):
        receive(cert_rep_pending(open_message(ask()), rogue_ca(), CA_NONCE))


def test_answer_to_another_transaction_is_refused() -> None:
    reply = cert_rep_pending(open_message(ask()), CA, CA_NONCE)
    with pytest.raises(SCEPError, match="recipientNonce"):
        receive(reply, sender_nonce=b"x" * 16)
    with pytest.raises(SCEPError, match="expected an answer to transaction"):
        receive(reply, transaction_id="OTHER")
    with pytest.raises(SCEPError, match="expected a CertRep"):
        receive(ask(), ca=CACertificates(CA.certificate, CA.certificate, (open_message(ask()).signer,), ()))


def test_answer_encrypted_for_another_key_is_refused() -> None:
    _, reply = grant(ask())
    with pytest.raises(SCEPError, match="answer cannot be opened") as caught:
        client.parse_cert_rep(reply, CSR, OTHER_KEY, CA_PARTS, TRANSACTION, NONCE)
    assert not isinstance(caught.value, SCEPFailure)


# Requests that a CA refuses


def refused(message: bytes, ca: Identity = CA) -> FailInfo | None:
    with pytest.raises(SCEPFailure) as caught:
        ca_side.read_request(open_message(message), ca)
    return caught.value.fail_info


def signed_by_mac(envelope: bytes | None, message_type: MessageType = MessageType.PKCS_REQ) -> bytes:
    header = messages.Header(message_type, TRANSACTION, NONCE)
    own = client.self_signed(CSR, MAC_KEY, NOW)
    return messages.sign_message(header, envelope, own, MAC_KEY, hashes.SHA256())


def test_undecryptable_requests_are_refused() -> None:
    assert refused(ask(), rogue_ca("Another")) is FailInfo.BAD_MESSAGE_CHECK
    assert refused(signed_by_mac(None)) is refused(signed_by_mac(b"")) is FailInfo.BAD_MESSAGE_CHECK
    assert refused(signed_by_mac(b"text")) is FailInfo.BAD_MESSAGE_CHECK
    closed = close_envelope(CSR, CA.certificate, Cipher.AES_128_CBC)
    unknown = closed.replace(der.oid(Cipher.AES_128_CBC.oid), der.oid("2.16.840.1.101.3.4.1.99"))
    assert refused(signed_by_mac(unknown)) is FailInfo.BAD_ALG


def test_malformed_requests_are_refused() -> None:
    garbage = close_envelope(b"no request", CA.certificate, Cipher.AES_128_CBC)
    assert refused(signed_by_mac(garbage)) is FailInfo.BAD_REQUEST
    assert refused(signed_by_mac(garbage, MessageType.CERT_POLL)) is FailInfo.BAD_REQUEST
    assert refused(signed_by_mac(garbage, MessageType.GET_CRL)) is FailInfo.BAD_REQUEST


def test_scep_needs_rsa_keys() -> None:
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


def test_scep_works_with_apples_default_key_size() -> None:
    key = rsa_key(1024)
    request = csr.build_csr(key, SUBJECT)
    words = parse_caps(b"SHA-512")
    question = client.build_pki_message(request, key, CA_PARTS, words, "T", NONCE, now=NOW)
    issued, reply = grant(question)
    assert client.parse_cert_rep(reply, request, key, CA_PARTS, "T", NONCE) == client.Granted(issued, (issued,))


@pytest.mark.parametrize("cipher", Cipher)
@given(content=st.binary(max_size=64))
@examples(10)
def test_every_cipher_decrypts_what_it_encrypted(cipher: Cipher, content: bytes) -> None:
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
@examples(100, explored=300)
def test_any_message_is_read_or_a_scep_error(data: bytes) -> None:
    with contextlib.suppress(SCEPError):
        receive(data)
    with contextlib.suppress(SCEPError):
        ca_side.read_request(open_message(data), CA)


@given(hostile(ENVELOPE, certificates_only([CA.certificate])))
@examples(25, explored=60)
def test_signed_content_can_be_any_bytes(data: bytes) -> None:
    """Behind a good signature: an envelope of any bytes, and any bytes in an envelope."""
    for envelope in (data, close_envelope(data, CA.certificate, Cipher.AES_128_CBC)):
        for kind in (MessageType.PKCS_REQ, MessageType.CERT_POLL):
            with contextlib.suppress(SCEPError):
                ca_side.read_request(open_message(signed_by_mac(envelope, kind)), CA)
    closed = close_envelope(data, open_message(QUESTION).signer, Cipher.AES_128_CBC)
    header = messages.Header(MessageType.CERT_REP, TRANSACTION, CA_NONCE, NONCE, PKIStatus.SUCCESS)
    with contextlib.suppress(SCEPError):
        receive(messages.sign_message(header, closed, CA.certificate, CA_KEY, hashes.SHA256()))


@given(st.lists(st.integers(0, 1 << 70), max_size=8), st.integers(0, 2), st.integers(0, 39))
def test_object_identifiers_survive_a_round_trip(arcs: list[int], first: int, second: int) -> None:
    dotted = ".".join(map(str, (first, second, *arcs)))
    encoded = der.oid(dotted)
    if len(der.read(encoded).body) <= 64:
        assert der.read(encoded).oid() == dotted
