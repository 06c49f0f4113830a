"""The certificates of a SCEP CA: the answer to GetCACert, and the check of a CAFingerprint (RFC 8894, 4.2)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from agent.pki import cms, cms_signing, der
from agent.pki.certificates import UNREADABLE, CertificateError, read_certificate
from agent.pki.scep.envelope import DATA, MAX_BYTES, rsa_key_of
from agent.pki.scep.errors import SCEPError

CA_CONTENT_TYPE = "application/x-x509-ca-cert"
CA_RA_CONTENT_TYPE = "application/x-x509-ca-ra-cert"
MAX_CERTIFICATES = 16  # of a CA and its RAs; each is checked against every other
_VERSION_1 = bytes.fromhex("020101")

FINGERPRINTS: dict[int, hashes.HashAlgorithm] = {
    16: hashes.MD5(),  # noqa: S303 - the operator's choice: the payload does not say which digest it holds
    20: hashes.SHA1(),  # noqa: S303
    28: hashes.SHA224(),
    32: hashes.SHA256(),
    48: hashes.SHA384(),
    64: hashes.SHA512(),
}
"""The digests that a CAFingerprint can hold, by their length."""


class CACertificates(msgspec.Struct, frozen=True):
    """The certificates of a CA by their roles."""

    issuer: x509.Certificate
    recipient: x509.Certificate
    """Requests are encrypted to it."""
    signers: tuple[x509.Certificate, ...]
    """Those that may sign an answer."""
    certificates: tuple[x509.Certificate, ...]
    """All of them, in the order of the answer."""


def parse_ca_certificates(answer: bytes) -> CACertificates:
    """Read the answer to GetCACert: one DER certificate, or a SignedData with certificates only.

    The bytes decide which of the two it is, not the Content-Type. Raises SCEPError.
    """
    if len(answer) > MAX_BYTES:
        raise SCEPError(f"expected an answer to GetCACert of at most {MAX_BYTES:,} bytes, found {len(answer):,}")
    try:
        certificates = cms.certificates_in(answer) if cms.looks_signed(answer) else (read_certificate(answer),)
    except (cms.CMSError, CertificateError) as error:
        raise SCEPError(f"the answer to GetCACert is neither a certificate nor a set of them: {error}") from error
    return _choose_parts(certificates)


def render_ca_certificates(certificates: Sequence[x509.Certificate]) -> tuple[str, bytes]:
    """Content-Type and body of the answer to GetCACert: one certificate as it is, several in a SignedData."""
    if len(certificates) == 1:
        return CA_CONTENT_TYPE, certificates[0].public_bytes(Encoding.DER)
    return CA_RA_CONTENT_TYPE, certificates_only(certificates)


def certificates_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """A degenerate SignedData: no signer, no content (RFC 8894, 3.4).

    The certificates keep their order, against DER's rule for a SET OF: some clients use the first one as theirs.
    """
    encoded = b"".join(one.public_bytes(Encoding.DER) for one in certificates)
    content = der.sequence(der.oid(DATA))
    signed_data = der.sequence(_VERSION_1, der.set_of(), content, der.encode(der.CONTEXT_0, encoded), der.set_of())
    return der.sequence(der.oid(cms_signing.SIGNED_DATA), der.encode(der.CONTEXT_0, signed_data))


def check_fingerprint(ca: CACertificates, fingerprint: bytes) -> None:
    """Check the profile's CAFingerprint: a digest of a CA certificate's DER; its length says which digest.

    The issuer, the recipient and every signer must be issued by the CA with this fingerprint. Raises SCEPError.
    Source: apple-schema profiles/com.apple.security.scep.yaml, CAFingerprint.
    """
    digest = FINGERPRINTS.get(len(fingerprint))
    if digest is None:
        lengths = "16 (MD5), 20 (SHA-1) or 32 (SHA-256)"
        raise SCEPError(f"expected a CAFingerprint of {lengths} bytes, found {len(fingerprint)}")
    anchor = next((one for one in ca.certificates if hmac.compare_digest(one.fingerprint(digest), fingerprint)), None)
    if anchor is None:
        found = ca.issuer.fingerprint(digest).hex()
        raise SCEPError(f"expected a CA with the {digest.name} fingerprint {fingerprint.hex()}, found {found}")
    for one in (ca.issuer, ca.recipient, *ca.signers):
        if not _comes_from(one, anchor, ca.certificates):
            raise SCEPError(
                f"the CAFingerprint is that of {anchor.subject.rfc4514_string()!r}, which did not issue"
                f" {one.subject.rfc4514_string()!r} in the same answer"
            )


def _choose_parts(certificates: Sequence[x509.Certificate]) -> CACertificates:
    """Find the CA by basicConstraints, and the roles of its RAs by keyUsage (RFC 8894, 4.2.1.2)."""
    if not certificates:
        raise SCEPError("expected a certificate in the answer to GetCACert, found none")
    if len(certificates) > MAX_CERTIFICATES:
        raise SCEPError(f"expected at most {MAX_CERTIFICATES} certificates from GetCACert, found {len(certificates)}")
    authorities = [one for one in certificates if len(certificates) == 1 or _is_authority(one)]
    if not authorities:
        raise SCEPError(f"expected a CA among the {len(certificates)} certificates from GetCACert, found none")
    registrars = [one for one in certificates if one not in authorities]
    issuer = _issuer_among(authorities, registrars)
    candidates = [one for one in (*registrars, issuer) if isinstance(one.public_key(), rsa.RSAPublicKey)]
    if not candidates:
        rsa_key_of(issuer)  # raises SCEPError where it is not RSA
        raise SCEPError("expected a certificate with an RSA key from GetCACert, found none")
    # Without keyEncipherment in any certificate and without an RA, the CA itself is the recipient.
    recipient = next((one for one in candidates if _usage(one, "key_encipherment")), candidates[-1])
    signers = tuple(one for one in (*registrars, issuer) if one is issuer or _usage(one, "digital_signature"))
    return CACertificates(issuer, recipient, signers, tuple(certificates))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.issuer == certificate.subject  # a root from before X.509 v3


def _issuer_among(authorities: list[x509.Certificate], registrars: list[x509.Certificate]) -> x509.Certificate:
    """The CA that issued the RAs; without RAs the CA that issued no other."""
    for registrar in registrars:
        for one in authorities:
            if _issued(one, registrar):
                return one
    for one in authorities:
        if not any(other is not one and _issued(one, other) for other in authorities):
            return one
    return authorities[0]


def _usage(certificate: x509.Certificate, bit: str) -> bool:
    """Whether keyUsage allows ``bit``; a certificate without the extension allows everything."""
    try:
        return bool(getattr(certificate.extensions.get_extension_for_class(x509.KeyUsage).value, bit))
    except x509.ExtensionNotFound:
        return True


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _comes_from(one: x509.Certificate, anchor: x509.Certificate, pool: Sequence[x509.Certificate]) -> bool:
    seen: list[x509.Certificate] = []
    while one != anchor:
        seen.append(one)
        parents = [other for other in pool if other not in seen and _is_authority(other) and _issued(other, one)]
        if not parents:
            return False
        one = anchor if anchor in parents else parents[0]
    return True
