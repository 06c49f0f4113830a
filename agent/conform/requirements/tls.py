"""Requirements of TLS for macOS 27. Source: Apple's article 126655, Prepare your network for stricter security."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.conform.stage.handshakes import NOT_IN_TIME
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import TLSRecord
from agent.conform.verdicts.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.pki.certificates import CertificateError, read_certificates
from agent.pki.tls_floor import Handshake, Rule, faults

_ARTICLE = "Apple support article 126655"
_NO_HANDSHAKE = "No handshake came to its end."
_NO_TLS_1_2 = "No handshake agreed on TLS 1.2: the server may speak TLS 1.3 alone."


def extended_master_secret(evidence: Evidence) -> Finding:
    """With TLS 1.2 the server agrees to the extended master secret."""
    shaken = [each for each in evidence.handshakes() if each.version == "TLSv1.2"]
    return _judged([each for each in shaken if each.extended_master_secret is not None], "extended master secret")


def no_old_version(evidence: Evidence) -> Finding:
    """TLS 1.0 and 1.1 are refused, and another handshake is not."""
    shaken = evidence.handshakes("up to TLS 1.1")
    if not shaken:
        return not_tested("No handshake was tried.")
    if shaken[0].version:
        return failed("a refused handshake", f"{shaken[0].version} with {shaken[0].cipher}", shaken[0])
    if shaken[0].error == NOT_IN_TIME:
        return not_tested("The server did not answer in time.", shaken[0])
    agreed = [each for each in evidence.handshakes() if each.version]
    return passed(shaken[0], *agreed) if agreed else not_tested(_NO_HANDSHAKE, shaken[0])


def forward_secrecy(evidence: Evidence) -> Finding:
    """With TLS 1.2 the cipher suite has an ephemeral key exchange and authenticated encryption."""
    return _judged([each for each in evidence.handshakes() if each.version == "TLSv1.2"], "cipher suite")


def strong_certificate(evidence: Evidence) -> Finding:
    """The server's own certificate has a key and a signature that are strong enough, and is in its dates."""
    shaken = [each for each in evidence.handshakes() if each.chain]
    for each in shaken:
        try:
            certificate = read_certificates(each.chain[0].encode())[0]
        except (CertificateError, IndexError):
            return not_tested("The server's certificate cannot be read.", each)
        for fault in faults(Handshake(each.version, each.cipher, certificate=certificate)):
            if fault.rule in ("key", "signature"):
                return failed(fault.expected, fault.found, each)
        day = datetime.fromtimestamp(each.at, UTC)
        if not certificate.not_valid_before_utc <= day <= certificate.not_valid_after_utc:
            dates = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
            return failed(f"a certificate that is valid on {day:%Y-%m-%d}", f"one from {dates}", each)
    return passed(*shaken) if shaken else not_tested(_NO_HANDSHAKE)


def _judged(shaken: list[TLSRecord], rule: Rule) -> Finding:
    """Passed if each of these handshakes keeps a rule of the floor, which the Macs judge by as well."""
    for each in shaken:
        for fault in faults(Handshake(each.version, each.cipher, each.extended_master_secret)):
            if fault.rule == rule:
                return failed(fault.expected, fault.found, each)
    return passed(*shaken) if shaken else not_tested(_NO_TLS_1_2)


REQUIREMENTS = (
    Requirement(
        "OS27-TLS-02",
        Level.SHOULD,
        "The MDM server should refuse TLS 1.0 and TLS 1.1.",
        Source(_ARTICLE, "TLS 1.2 or later", "2026"),
        ("macos27",),
        ("tls-versions",),
        no_old_version,
    ),
    Requirement(
        "OS27-TLS-03",
        Level.SHOULD,
        "With TLS 1.2 the MDM server should agree to the extended master secret.",
        Source(_ARTICLE, "as quoted by vendors", "2026"),
        ("macos27",),
        ("tls-versions",),
        extended_master_secret,
    ),
    Requirement(
        "OS27-TLS-04",
        Level.SHOULD,
        "With TLS 1.2 the MDM server should agree to a cipher suite with ECDHE, and AES-GCM or ChaCha20-Poly1305.",
        Source(_ARTICLE, "ATS-compliant ciphersuites", "2026"),
        ("macos27",),
        ("tls-versions",),
        forward_secrecy,
    ),
    Requirement(
        "OS27-TLS-05",
        Level.SHOULD,
        "The certificate of the MDM server should have RSA of 2048 bits or EC of 256 bits, SHA-2, and valid dates.",
        Source(_ARTICLE, "valid certificates that meet ATS", "2026"),
        ("macos27",),
        ("tls-versions",),
        strong_certificate,
    ),
)
