"""Defects of the check of certificates and signatures."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("identity-any-ca", "Certificates of any CA are accepted.", ("SEC-IDENTITY-04",)),
    Defect(
        "identity-expired-accepted",
        "Certificates that have expired or that are self-signed are accepted.",
        ("SEC-IDENTITY-05",),
    ),
    Defect(
        "identity-signature-unchecked", "Any Mdm-Signature is accepted that cannot be verified.", ("SEC-IDENTITY-06",)
    ),
    Defect("identity-signature-optional", "Messages without Mdm-Signature are accepted.", ("SEC-IDENTITY-07",)),
    Defect(
        "identity-by-signature",
        "A Mac is known by the signer of its message, whatever its TLS certificate is.",
        ("SEC-IDENTITY-13",),
    ),
    Defect("identity-signer-unchecked", "The Mdm-Signature of any Mac is accepted.", ("SEC-IDENTITY-08",)),
    Defect("identity-none-accepted", "Macs without a certificate are accepted.", ("SEC-IDENTITY-09",)),
    Defect(
        "identity-resumption-unbound",
        "In a resumed TLS session the report of any Mac is accepted.",
        ("SEC-IDENTITY-10",),
    ),
    Defect(
        "identity-check-out-unbound", "CheckOut is accepted with the certificate of another Mac.", ("SEC-IDENTITY-11",)
    ),
    Defect(
        "identity-queue-kept",
        "Commands stay queued where a UDID enrolls again with another identity.",
        ("SEC-IDENTITY-12",),
    ),
)
