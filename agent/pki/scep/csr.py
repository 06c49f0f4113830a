"""Certificate requests (PKCS#10, RFC 2986): written from a SCEP payload's values, read by the CA's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from agent.pki import der
from agent.pki.certificates import UNREADABLE
from agent.pki.identity import PrivateKey
from agent.pki.names import ascii_upper
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure
from agent.pki.signatures import LEGACY, SignatureError, check_signature

MAX_BYTES = 256 * 1024
MAX_NAMES = 64  # in a Subject, and in a SubjectAltName
MAX_TEXT = 16 * 1024  # characters of one value; some CAs' challenges are signed tokens of some KB

SIGN = 1  # bits of the payload's "Key Usage"
ENCRYPT = 4

CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105 - its object identifier
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
NT_PRINCIPAL_NAME = "1.3.6.1.4.1.311.20.2.3"
_SHA256_RSA = "1.2.840.113549.1.1.11"
_SHA256_ECDSA = "1.2.840.10045.4.3.2"

_SHORT_NAMES: dict[str, x509.ObjectIdentifier] = {
    "C": NameOID.COUNTRY_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    # Apple documents the six above; profiles use these too.
    "E": NameOID.EMAIL_ADDRESS,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
    "DC": NameOID.DOMAIN_COMPONENT,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "UID": NameOID.USER_ID,
    "SN": NameOID.SURNAME,
    "GN": NameOID.GIVEN_NAME,
    "T": NameOID.TITLE,
    "STREET": NameOID.STREET_ADDRESS,
    "POSTALCODE": NameOID.POSTAL_CODE,
}
# Written as PrintableString or IA5String (RFC 5280, appendix A); the library does not check that they fit.
_ASCII_NAMES = frozenset(
    (
        NameOID.COUNTRY_NAME,
        NameOID.SERIAL_NUMBER,
        NameOID.DN_QUALIFIER,
        NameOID.EMAIL_ADDRESS,
        NameOID.DOMAIN_COMPONENT,
    )
)
_PRINTABLE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
# The tags of DirectoryString and IA5String.
_ENCODINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


class CertificateRequest(msgspec.Struct, frozen=True):
    """A request whose signature by its own key is valid."""

    encoded: bytes
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    subject: x509.Name
    subject_alternative_name: x509.SubjectAlternativeName | None
    key_usage: x509.KeyUsage | None
    challenge: str | None
    """The challengePassword."""


def build_csr(
    private_key: PrivateKey,
    subject: object,
    *,
    subject_alt_name: object = None,
    challenge: str | None = None,
    key_usage: int = 0,
) -> bytes:
    """The DER of a request signed with SHA-256, from the payload's values after substitution of their variables.

    ``subject``: array of arrays of [OID or short name, value]. ``subject_alt_name``: Apple's four keys, each a string
    or an array of strings. ``key_usage``: SIGN, ENCRYPT, both, or 0 for no extension. Raises SCEPError.
    Source: apple-schema profiles/com.apple.security.scep.yaml.
    """
    name = subject_name(subject)
    extensions: list[x509.ExtensionType] = []
    alternative = alternative_names(subject_alt_name)
    if alternative:
        extensions.append(x509.SubjectAlternativeName(alternative))
    if key_usage & (SIGN | ENCRYPT):
        extensions.append(key_usage_of(key_usage))
    attributes = []
    if challenge:
        attributes.append(der.sequence(der.oid(CHALLENGE_PASSWORD), der.set_of(_directory_string(challenge))))
    if extensions:
        wanted = der.sequence(*(_extension(one) for one in extensions))
        attributes.append(der.sequence(der.oid(EXTENSION_REQUEST), der.set_of(wanted)))
    info = der.sequence(
        bytes.fromhex("020100"),
        name.public_bytes(),
        private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.encode(der.CONTEXT_0, b"".join(sorted(attributes))),
    )
    algorithm, signature = _signature(private_key, info)
    return der.sequence(info, algorithm, der.encode(der.BIT_STRING, b"\x00" + signature))


def subject_name(subject: object) -> x509.Name:
    """The X.500 name of a payload's Subject; empty for none. Raises SCEPError."""
    if subject is None:
        return x509.Name([])
    groups = _array(subject, "the Subject")
    names = [[_name_attribute(pair) for pair in _array(group, "each part of the Subject")] for group in groups]
    try:
        name = x509.Name([x509.RelativeDistinguishedName(group) for group in names])
        name.public_bytes()  # raises ValueError for a value that its type cannot hold
    except ValueError as error:
        raise SCEPError(f"the Subject cannot be written as an X.500 name: {error}") from error
    return name


def alternative_names(names: object) -> list[x509.GeneralName]:
    """The general names of a payload's SubjectAltName; undocumented keys are ignored. Raises SCEPError."""
    if names is None:
        return []
    if not isinstance(names, Mapping):
        raise SCEPError(f"expected a dictionary for the SubjectAltName, found a {type(names).__name__}")
    found: list[x509.GeneralName] = []
    try:
        found += [x509.RFC822Name(text) for text in _texts(names, "rfc822Name")]
        found += [x509.DNSName(text) for text in _texts(names, "dNSName")]
        found += [x509.UniformResourceIdentifier(text) for text in _texts(names, "uniformResourceIdentifier")]
        for text in _texts(names, "ntPrincipalName"):
            value = der.encode(der.UTF8_STRING, text.encode())
            found.append(x509.OtherName(x509.ObjectIdentifier(NT_PRINCIPAL_NAME), value))
    except ValueError as error:
        raise SCEPError(f"the SubjectAltName cannot be written: {error}") from error
    if len(found) > MAX_NAMES:
        raise SCEPError(f"expected at most {MAX_NAMES} names in the SubjectAltName, found {len(found)}")
    return found


def read_csr(data: bytes) -> CertificateRequest:
    """Read a request and check that it is signed by its own key.

    Raises SCEPFailure with the failInfo for the CA's answer: badRequest, badAlg, or badMessageCheck for the signature.
    """
    if len(data) > MAX_BYTES:
        raise _refused(f"has {len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        fields = der.Fields(der.read(data).expect(der.SEQUENCE, "a CertificationRequest"))
        info = fields.take(der.SEQUENCE, "a CertificationRequestInfo")
        signature_fields = [fields.take(der.SEQUENCE, "the algorithm"), fields.take(der.BIT_STRING, "the signature")]
        csr = x509.load_der_x509_csr(_in_order(info, signature_fields))
        public_key, extensions = csr.public_key(), csr.extensions
        if not isinstance(public_key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
            raise SCEPFailure(FailInfo.BAD_ALG, "the key of the certificate request is neither RSA nor elliptic curve")
        algorithm = der.Fields(signature_fields[0]).take(der.OBJECT_IDENTIFIER, "the algorithm").oid()
        check_signature(public_key, algorithm, signature_fields[1].body[1:], info.encoded, legacy=LEGACY)
        return CertificateRequest(
            data,
            public_key,
            csr.subject,
            _wanted(extensions, x509.SubjectAlternativeName),
            _wanted(extensions, x509.KeyUsage),
            _challenge(info),
        )
    except SignatureError as error:
        raise SCEPFailure(
            FailInfo.BAD_MESSAGE_CHECK, f"the certificate request is not its key's own: {error}"
        ) from error
    except UnsupportedAlgorithm as error:
        raise SCEPFailure(FailInfo.BAD_ALG, f"the certificate request cannot be checked: {error}") from error
    except (der.DERError, *UNREADABLE) as error:
        raise _refused(f"cannot be read: {error}") from error


def _array(value: object, what: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_NAMES:
        raise SCEPError(f"expected an array of at most {MAX_NAMES} for {what}, found {value!r:.80}")
    return value


def _name_attribute(pair: object) -> x509.NameAttribute[str]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise SCEPError(f"expected pairs of [name, value] in the Subject, found {pair!r:.80}")
    name, value = pair
    try:
        oid = _SHORT_NAMES.get(ascii_upper(name)) or x509.ObjectIdentifier(name)
        if oid in _ASCII_NAMES and not value.isascii():
            raise SCEPError(f"expected ASCII only for the Subject's {name[:40]!r}, found {value!r:.80}")
        return x509.NameAttribute(oid, value)
    except ValueError as error:
        raise SCEPError(f"the Subject's {name[:40]!r} cannot be written: {error}") from error


def _texts(names: Mapping[str, object], key: str) -> Iterator[str]:
    value = names.get(key, [])
    for text in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT:
            raise SCEPError(f"expected strings for {key} in the SubjectAltName, found {text!r:.80}")
        yield text


def key_usage_of(bits: int) -> x509.KeyUsage:
    """The extension for the bits SIGN and ENCRYPT of a payload."""
    return x509.KeyUsage(
        digital_signature=bool(bits & SIGN),
        content_commitment=False,
        key_encipherment=bool(bits & ENCRYPT),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _extension(extension: x509.ExtensionType) -> bytes:
    critical = b"\x01\x01\xff" if isinstance(extension, x509.KeyUsage) else b""  # RFC 5280, 4.2.1.3
    return der.sequence(
        der.oid(extension.oid.dotted_string), critical, der.encode(der.OCTET_STRING, extension.public_bytes())
    )


def _directory_string(text: str) -> bytes:
    """A challengePassword: PrintableString where possible, else UTF8String (RFC 2985, 5.4.1)."""
    if len(text) > MAX_TEXT:
        raise SCEPError(f"expected a Challenge of at most {MAX_TEXT:,} characters, found {len(text):,}")
    tag = der.PRINTABLE_STRING if _PRINTABLE.issuperset(text) else der.UTF8_STRING
    try:
        return der.encode(tag, text.encode())
    except UnicodeEncodeError as error:
        raise SCEPError(f"the Challenge is not Unicode text: {error}") from error


def _signature(private_key: PrivateKey, info: bytes) -> tuple[bytes, bytes]:
    digest = hashes.SHA256()
    if isinstance(private_key, rsa.RSAPrivateKey):
        algorithm = der.sequence(der.oid(_SHA256_RSA), der.NULL)
        return algorithm, private_key.sign(info, padding.PKCS1v15(), digest)
    return der.sequence(der.oid(_SHA256_ECDSA)), private_key.sign(info, ec.ECDSA(digest))


def _wanted(extensions: x509.Extensions, kind: type[ExtensionT]) -> ExtensionT | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _in_order(info: der.Element, signature_fields: Sequence[der.Element]) -> bytes:
    """The request with its attributes in DER's order, which the library requires and strongSwan does not keep.

    The order invalidates its signature.
    """
    parts = info.children()
    if len(parts) == 4 and parts[3].tag == der.CONTEXT_0:
        attributes = der.encode(der.CONTEXT_0, b"".join(sorted(one.encoded for one in parts[3].children())))
        ordered = der.sequence(*(part.encoded for part in parts[:3]), attributes)
        return der.sequence(ordered, *(field.encoded for field in signature_fields))
    raise der.DERError(
        f"expected a CertificationRequestInfo of 4 parts with attributes as the last, found {len(parts)}"
    )


def _challenge(info: der.Element) -> str | None:
    """The challengePassword among the attributes of a CertificationRequestInfo."""
    for attribute in info.children()[3].children():
        fields = der.Fields(attribute)
        if fields.take(der.OBJECT_IDENTIFIER, "the type of an attribute").oid() != CHALLENGE_PASSWORD:
            continue
        values = fields.take(der.SET, "the values of an attribute").children()
        if len(values) != 1 or values[0].tag not in _ENCODINGS or len(values[0].body) > 4 * MAX_TEXT:
            raise _refused("has a challengePassword that is not a single string")
        return values[0].body.decode(_ENCODINGS[values[0].tag])
    return None


def _refused(what: str) -> SCEPFailure:
    return SCEPFailure(FailInfo.BAD_REQUEST, f"the certificate request {what}")
