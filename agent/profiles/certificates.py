"""Certificate payloads: identities (PKCS12) and CA certificates (root, PEM, PKCS1).

Source: apple-schema profiles/com.apple.security.*.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509

from agent.pki.certificates import MAX_BYTES, CertificateError, read_certificate, read_pem
from agent.pki.identity import Identity, IdentityError, WrongPasswordError, load_pkcs12
from agent.pki.names import ascii_upper
from agent.profiles.acme import ACME
from agent.profiles.errors import ProfileError, bad_certificate, bad_password, payload_failed
from agent.profiles.profile import Payload, Profile
from agent.profiles.scep import SCEP

PKCS12 = "com.apple.security.pkcs12"
IDENTITIES = (ACME, PKCS12, SCEP)
CERTIFICATES = ("com.apple.security.root", "com.apple.security.pem", "com.apple.security.pkcs1")

# The identities of a profile by PayloadUUID (in upper case).
Identities = Mapping[str, Identity]


def unpack_identity(payload: Payload) -> Identity:
    """Unpack a PKCS12 payload. Raises ProfileError with the ErrorChain of a Mac."""
    outer = payload_failed(payload.name)
    try:
        return load_pkcs12(payload.require("PayloadContent", bytes), payload.get("Password", str))
    except WrongPasswordError as error:
        raise bad_password(str(error)).within(outer) from error
    except IdentityError as error:
        raise bad_certificate(str(error)).within(outer) from error


def identity_at(profile: Profile, uuid: str, key: str, identities: Identities) -> Identity:
    """The identity that a payload references by PayloadUUID in ``key``. Raises ProfileError if there is none."""
    payload = profile.payload(uuid, key)
    identity = identities.get(ascii_upper(payload.uuid))
    if identity is None:
        raise _no_identity(payload, key)
    return identity


def check_identity_at(profile: Profile, uuid: str, key: str) -> None:
    """Check that ``key`` references a payload that provides an identity. Raises ProfileError."""
    payload = profile.payload(uuid, key)
    if payload.payload_type not in IDENTITIES:
        raise _no_identity(payload, key)


def _no_identity(payload: Payload, key: str) -> ProfileError:
    reason = f"{key} refers to a payload {payload.payload_type}, which provides no identity that this Mac can use"
    return bad_certificate(reason).within(payload_failed(payload.name))


def certificate_of(payload: Payload) -> x509.Certificate:
    """Read a CA certificate payload, DER or PEM. Raises ProfileError."""
    outer = payload_failed(payload.name)
    if payload.payload_type not in CERTIFICATES:
        raise bad_certificate(f"a payload {payload.payload_type} contains no CA certificate").within(outer)
    blob = payload.require("PayloadContent", bytes)
    if len(blob) > MAX_BYTES:
        raise bad_certificate(f"expected a certificate of at most {MAX_BYTES} bytes, found {len(blob)}").within(outer)
    try:
        return read_pem(blob)[0] if b"-----BEGIN" in blob else read_certificate(blob)
    except CertificateError as error:
        raise bad_certificate(f"the payload's certificate cannot be read: {error}").within(outer) from error


def certificates_at(profile: Profile, payload: Payload, key: str) -> tuple[x509.Certificate, ...]:
    """The CA certificates that ``payload`` references by PayloadUUID in ``key``. Raises ProfileError."""
    return tuple(certificate_of(profile.payload(uuid, key)) for uuid in payload.strings(key))


def all_certificates(profile: Profile) -> tuple[x509.Certificate, ...]:
    """Every CA certificate of a profile. Raises ProfileError."""
    return tuple(certificate_of(payload) for payload in profile.payloads if payload.payload_type in CERTIFICATES)
