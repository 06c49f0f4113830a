"""Requirements of TLS for macOS 27. Source: Apple's article 126655, Prepare your network for stricter security."""

from __future__ import annotations

from agent.conform.evidence import Evidence
from agent.conform.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed

_ARTICLE = "Apple support article 126655"


def extended_master_secret(evidence: Evidence) -> Finding:
    """With TLS 1.2 the server agrees to the extended master secret."""
    shaken = [each for each in evidence.handshakes() if each.version == "TLSv1.2"]
    shaken = [each for each in shaken if each.extended_master_secret is not None]
    if not shaken:
        return not_tested("No handshake agreed on TLS 1.2: the server may speak TLS 1.3 alone.")
    for each in shaken:
        if not each.extended_master_secret:
            return failed("TLS 1.2 with the extended master secret (RFC 7627)", "TLS 1.2 without it", each)
    return passed(*shaken)


def no_old_version(evidence: Evidence) -> Finding:
    """TLS 1.0 and 1.1 are refused."""
    shaken = evidence.handshakes("up to TLS 1.1")
    if not shaken:
        return not_tested("No handshake was tried.")
    if shaken[0].version:
        return failed("a refused handshake", f"{shaken[0].version} with {shaken[0].cipher}", shaken[0])
    return passed(shaken[0])


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
)
