"""CMS signatures: our own, those of the ``openssl`` command, and bytes that are not CMS."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from asn1crypto import cms as asn1_cms
from counted_calls import calls_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from debian import need
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from rsa_keys import rsa_key, rsa_keys
from strategies_cms import hostile

from agent.errors import MisuseError
from agent.pki import cms, cms_signing, der
from agent.pki.certificates import CertificateError, read_certificate
from agent.pki.identity import Identity, PrivateKey
from agent.pki.signatures import LEGACY

NOW = datetime.now(UTC)
BODY = b"<plist>\r\nnot\ra MIME text\n \x00\xff</plist>"


def identity(key: PrivateKey, name: str = "Mac") -> Identity:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate, key)


RSA = identity(rsa_key())
EC = identity(ec.generate_private_key(ec.SECP256R1()))
P384 = identity(ec.generate_private_key(ec.SECP384R1()))
both = pytest.mark.parametrize("mac", [RSA, EC, P384], ids=["rsa", "p256", "p384"])


def openssl(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    command = need("openssl", "openssl")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, check=check, timeout=60)


def sign_detached(body: bytes, certificate: x509.Certificate, key: PrivateKey) -> bytes:
    return base64.b64decode(mdm_signature(body, Identity(certificate, key)))


def mdm_signature(body: bytes, mac: Identity) -> str:
    return cms_signing.mdm_signature(body, cms_signing.DetachedSigner(mac), mac)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, mac in (("rsa", RSA), ("ec", EC)):
        (tmp_path / f"{name}.pem").write_bytes(mac.certificate.public_bytes(serialization.Encoding.PEM))
        key = mac.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / f"{name}.key").write_bytes(key)
    (tmp_path / "body").write_bytes(BODY)
    return tmp_path


def openssl_sign(files: Path, *options: str, command: str = "cms", who: str = "rsa") -> bytes:
    signer = ("-signer", files / f"{who}.pem", "-inkey", files / f"{who}.key")
    return openssl(command, "-sign", "-binary", "-in", files / "body", "-outform", "DER", *signer, *options).stdout


# Our own signatures


@both
@given(body=st.binary(max_size=300))
@examples(20)
def test_a_detached_signature_names_its_signer(mac: Identity, body: bytes) -> None:
    signature = sign_detached(body, mac.certificate, mac.key)
    assert cms.verify_detached(signature, body) == mac.certificate


@both
def test_attached_signature_returns_the_content(mac: Identity) -> None:
    signed = cms.open_signed(cms_signing.sign_attached(BODY, mac.certificate, mac.key, [RSA.certificate]))
    assert signed.content == BODY
    assert signed.signer == mac.certificate
    assert set(signed.certificates) == {mac.certificate, RSA.certificate}
    assert signed.digest == "sha256"


@both
@pytest.mark.parametrize("body", [b"", BODY])
def test_the_mdm_signature_is_one_line_of_base64(mac: Identity, body: bytes) -> None:
    header = mdm_signature(body, mac)
    assert header.isascii()
    assert not set(header) & set(" \r\n")
    assert cms.mdm_signature_signer(header, body) == mac.certificate


def test_signature_without_signed_attributes_is_verified() -> None:
    options = [
        pkcs7.PKCS7Options.Binary,
        pkcs7.PKCS7Options.DetachedSignature,
        pkcs7.PKCS7Options.NoAttributes,
    ]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(BODY).add_signer(EC.certificate, EC.key, hashes.SHA384())
    signature = builder.sign(serialization.Encoding.DER, options)
    assert cms.verify_detached(signature, BODY) == EC.certificate
    with pytest.raises(cms.CMSError, match="does not match"):
        cms.verify_detached(signature, BODY + b"!")


def test_signing_needs_an_rsa_or_ec_key() -> None:
    with pytest.raises(MisuseError, match="Expected an RSA or EC key"):
        sign_detached(BODY, RSA.certificate, ed25519.Ed25519PrivateKey.generate())  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(("year", "kind"), [(2049, "utc_time"), (2050, "generalized_time")])
def test_signing_time_is_included(mac: Identity, year: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5652, 11.3: UTCTime through 2049, GeneralizedTime from then on."""
    moment = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    monkeypatch.setattr(cms_signing, "datetime", SimpleNamespace(now=lambda _zone: moment))
    signature = sign_detached(BODY, mac.certificate, mac.key)
    assert cms.verify_detached(signature, BODY) == mac.certificate
    signer = asn1_cms.ContentInfo.load(signature)["content"]["signer_infos"][0]
    found = {attribute["type"].native: attribute["values"][0] for attribute in signer["signed_attrs"]}["signing_time"]
    assert (found.name, found.native) == (kind, moment)


# Errors


def test_signature_over_another_body_is_refused() -> None:
    with pytest.raises(cms.CMSError, match="sha256 digest of the content is not the signed one"):
        cms.verify_detached(sign_detached(BODY, RSA.certificate, RSA.key), BODY + b" ")


@both
def test_changed_signature_is_refused(mac: Identity) -> None:
    signature = bytearray(sign_detached(BODY, mac.certificate, mac.key))
    signature[-1] ^= 1
    with pytest.raises(cms.CMSError, match="signature does not match"):
        cms.verify_detached(bytes(signature), BODY)


def test_signature_with_the_certificate_of_another_key_is_refused() -> None:
    other = identity(rsa_keys()[1])
    with pytest.raises(cms.CMSError, match="does not match"):
        cms.verify_detached(sign_detached(BODY, other.certificate, RSA.key), BODY)


def test_signature_of_another_key_type_is_refused() -> None:
    signature = sign_detached(BODY, EC.certificate, EC.key)
    tbs = sign_detached(BODY, RSA.certificate, RSA.key)
    rsa_oid, ecdsa_oid = bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06082a8648ce3d040302")
    assert rsa_oid in tbs  # the builder's signature algorithm is rsaEncryption
    place = signature.rindex(ecdsa_oid)
    swapped = signature[:place] + bytes.fromhex("06082a8648ce3d040303") + signature[place + len(ecdsa_oid) :]
    with pytest.raises(cms.CMSError, match="does not match"):
        cms.verify_detached(swapped, BODY)


def test_missing_and_unexpected_content_are_refused() -> None:
    with pytest.raises(cms.CMSError, match="expected a detached signature"):
        cms.verify_detached(cms_signing.sign_attached(BODY, RSA.certificate, RSA.key), BODY)
    with pytest.raises(cms.CMSError, match="detached"):
        cms.open_signed(sign_detached(BODY, RSA.certificate, RSA.key))


def test_rsa_pss_is_refused() -> None:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(BODY)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    builder = builder.add_signer(RSA.certificate, RSA.key, hashes.SHA256(), rsa_padding=pss)
    signature = builder.sign(
        serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.DetachedSignature]
    )
    with pytest.raises(cms.CMSError, match="found RSA-PSS, which is refused"):
        cms.verify_detached(signature, BODY)


def test_messages_without_exactly_one_signer_are_refused() -> None:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(BODY)
    for mac in (RSA, EC):
        builder = builder.add_signer(mac.certificate, mac.key, hashes.SHA256())
    two = builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature])
    with pytest.raises(cms.CMSError, match="expected one signer, found 2"):
        cms.verify_detached(two, BODY)
    none = pkcs7.serialize_certificates([RSA.certificate], serialization.Encoding.DER)
    with pytest.raises(cms.CMSError, match="expected one signer, found none"):
        cms.verify_detached(none, BODY)
    assert cms.certificates_in(none) == (RSA.certificate,)
    bare = pkcs7.PKCS7SignatureBuilder().set_data(BODY).add_signer(RSA.certificate, RSA.key, hashes.SHA256())
    signature = bare.sign(
        serialization.Encoding.DER,
        [pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.NoCerts],
    )
    with pytest.raises(cms.CMSError, match="not among the 0 in the message"):
        cms.verify_detached(signature, BODY)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "begins with b''"),
        (b"<?xml version='1.0'?><plist/>", r"begins with b'<\?xml"),
        (b"bplist00", "begins with"),
        (der.encode(der.SEQUENCE, b""), "expected the content type .* found the end"),
        (bytes.fromhex("3080") * 100, "nested deeper"),
        (b"\x30\x80" + b"\x05\x00" * (der.MAX_ELEMENTS + 2) + b"\x00\x00", "more than 65536 elements"),
        (bytes(cms.MAX_BYTES + 1), "at most"),
        (b"0\x82\x10", "cut short"),
    ],
    ids=["empty", "plist", "binary plist", "hollow", "deep", "wide", "long", "cut"],
)
def test_bytes_that_are_not_cms_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(cms.CMSError, match=text):
        cms.open_signed(data)


def test_enveloped_data_is_refused_as_signature() -> None:
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(BODY).add_recipient(RSA.certificate)
    with pytest.raises(
        cms.CMSError, match=r"expected SignedData .*, found CMS of content type 1\.2\.840\.113549\.1\.7\.3"
    ):
        cms.open_signed(builder.encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header: header[:76] + "\r\n " + header[76:],
        lambda header: header + "!",
        lambda header: header.rstrip("=")[:-1],
        lambda header: "ü" + header[1:],
        lambda header: "",
    ],
    ids=["folded", "stray", "short", "not ascii", "empty"],
)
def test_mdm_signature_that_is_not_base64_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    header = mdm_signature(BODY, EC)
    with pytest.raises(cms.CMSError):
        cms.mdm_signature_signer(spoil(header), BODY)


class Copied(bytes):
    """Bytes that count in ``octets`` how many of them slices and concatenations copy."""

    octets = 0

    def __getitem__(self, where):  # type: ignore[no-untyped-def]
        found = super().__getitem__(where)
        return found if isinstance(found, int) else self._copy(found)

    def __add__(self, other: bytes) -> bytes:
        return self._copy(super().__add__(other))

    def __radd__(self, other: bytes) -> bytes:
        return self._copy(other + bytes(self))

    @staticmethod
    def _copy(found: bytes) -> Copied:
        Copied.octets += len(found)
        return Copied(found)


def steps_of_joining(pieces: int) -> int:
    """The function calls and the copied octets that a string in so many pieces takes."""
    string = Copied(b"\x24\x80" + der.encode(der.OCTET_STRING, b"x") * pieces + b"\x00\x00")
    joined, Copied.octets = [], 0
    calls = calls_of(lambda: joined.append(der.read(string).octets()))
    assert joined == [b"x" * pieces]
    return calls + Copied.octets


def test_steps_are_linear_in_the_pieces_of_a_string() -> None:
    assert steps_of_joining(8_000) <= 9 * steps_of_joining(1_000)


@pytest.mark.parametrize(
    ("part", "replacement"),
    [
        ("version", b"\xa0\x03\x02\x01\x07"),
        ("serial", b"\x02\x01\xff"),
        ("issuer", b"\x30\x02\x31\x00"),
        ("subject", b"\x30\x02\x31\x00"),
        ("subject", der.sequence(der.set_of(der.sequence(der.oid("2.5.4.3"), b"\x0c\x00")))),
        ("key", der.sequence(der.sequence(der.oid("1.2.3.4")), b"\x03\x02\x00\x00")),
    ],
)
def test_certificate_damaged_in_any_part_is_refused(part: str, replacement: bytes) -> None:
    """The library finds most of these only when the part is asked for; the last name is a warning, made an error."""
    order = ("version", "serial", "algorithm", "issuer", "validity", "subject", "key", "extensions")
    tbs, *rest = der.read(EC.certificate.public_bytes(serialization.Encoding.DER)).children()
    parts = {name: element.encoded for name, element in zip(order, tbs.children(), strict=True)}
    broken = der.sequence(der.sequence(*{**parts, part: replacement}.values()), *(one.encoded for one in rest))
    with pytest.raises(CertificateError, match="certificate cannot be read"):
        read_certificate(broken)


def test_signed_data_is_recognised() -> None:
    assert cms.looks_signed(cms_signing.sign_attached(BODY, EC.certificate, EC.key))
    assert not any(map(cms.looks_signed, (b"", b"0", BODY, b"bplist00", b"<?xml?>")))


# Any bytes

GOOD = (
    sign_detached(BODY, RSA.certificate, RSA.key),
    cms_signing.sign_attached(BODY, EC.certificate, EC.key, [RSA.certificate]),
)


@given(hostile(*GOOD))
@examples(150, explored=500)
def test_any_bytes_are_content_or_a_cms_error(data: bytes) -> None:
    cms.looks_signed(data)
    for read in (
        lambda: cms.open_signed(data, absent=BODY),
        lambda: cms.verify_detached(data, BODY, legacy=LEGACY),
        lambda: cms.certificates_in(data),
        lambda: cms.mdm_signature_signer(base64.b64encode(data).decode(), BODY),
    ):
        with contextlib.suppress(cms.CMSError):
            read()


@given(st.text(max_size=80))
def test_any_header_is_a_signer_or_a_cms_error(header: str) -> None:
    with pytest.raises(cms.CMSError):
        cms.mdm_signature_signer(header, BODY)


# The openssl command


@pytest.mark.parametrize("who", ["rsa", "ec"])
@pytest.mark.parametrize("command", ["cms", "smime"])
def test_openssl_verifies_our_detached_signature(files: Path, who: str, command: str) -> None:
    mac = RSA if who == "rsa" else EC
    (files / "signature").write_bytes(sign_detached(BODY, mac.certificate, mac.key))
    verify = (command, "-verify", "-binary", "-noverify", "-inform", "DER", "-in", files / "signature")
    assert openssl(*verify, "-content", files / "body").stdout == BODY
    (files / "body").write_bytes(BODY + b"!")
    assert openssl(*verify, "-content", files / "body", check=False).returncode != 0


def test_openssl_opens_our_attached_message(files: Path) -> None:
    (files / "signed").write_bytes(cms_signing.sign_attached(BODY, RSA.certificate, RSA.key, [EC.certificate]))
    signed = openssl("cms", "-verify", "-binary", "-noverify", "-inform", "DER", "-in", files / "signed")
    assert signed.stdout == BODY


@pytest.mark.parametrize("who", ["rsa", "ec"])
@pytest.mark.parametrize("options", [(), ("-noattr",), ("-md", "sha512"), ("-keyid",), ("-nosmimecap",)], ids=" ".join)
def test_detached_signature_of_openssl_is_verified(files: Path, who: str, options: tuple[str, ...]) -> None:
    mac = RSA if who == "rsa" else EC
    assert cms.verify_detached(openssl_sign(files, *options, who=who), BODY) == mac.certificate


@pytest.mark.parametrize("command", ["cms", "smime"])
@pytest.mark.parametrize("options", [(), ("-stream",), ("-stream", "-noattr")], ids=["der", "ber", "ber bare"])
def test_attached_message_of_openssl_is_read(files: Path, command: str, options: tuple[str, ...]) -> None:
    (files / "body").write_bytes(BODY * 1000)
    message = openssl_sign(files, "-nodetach", *options, command=command)
    assert (message[1] == 0x80) == ("-stream" in options)
    assert cms.looks_signed(message)
    assert cms.open_signed(message).content == BODY * 1000


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_legacy_digests_are_accepted_only_if_allowed(files: Path, digest: str) -> None:
    signature = openssl_sign(files, "-md", digest)
    with pytest.raises(cms.CMSError, match=f"found {digest}, which is refused"):
        cms.verify_detached(signature, BODY)
    assert cms.verify_detached(signature, BODY, legacy=LEGACY) == RSA.certificate


def test_openssls_rsa_pss_is_refused(files: Path) -> None:
    with pytest.raises(cms.CMSError, match="RSA-PSS"):
        cms.verify_detached(openssl_sign(files, "-keyopt", "rsa_padding_mode:pss"), BODY)


@both
def test_repeated_signer_makes_the_same_message(mac: Identity) -> None:
    """Openly built and from the bytes that were encoded before, for attributes of both lengths."""
    signer = cms_signing.DetachedSigner(mac)
    for body in (BODY, b"", b"another", BODY):
        found = signer.sign(body, mac)
        assert cms.verify_detached(found, body) == mac.certificate
        assert asn1_cms.ContentInfo.load(found, strict=True).dump(force=True) == found


def test_repeated_signer_takes_another_length_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = cms_signing.DetachedSigner(RSA)
    for year in (2049, 2049, 2050, 2050, 2049):
        moment = datetime(year, 6, 1, tzinfo=UTC)
        monkeypatch.setattr(cms_signing, "datetime", SimpleNamespace(now=lambda _zone, moment=moment: moment))
        assert signer.sign(BODY, RSA) == cms_signing.DetachedSigner(RSA).sign(BODY, RSA)
