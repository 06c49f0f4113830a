"""Defects of the check who a Mac is."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect(
        "identity-check-ins-unbound",
        "TokenUpdate is accepted with the certificate of another Mac.",
        ("SEC-IDENTITY-02",),
    ),
    Defect(
        "identity-reports-unbound",
        "A report is accepted with the certificate of another Mac.",
        ("SEC-IDENTITY-01", "SEC-IDENTITY-10"),
    ),
    Defect(
        "identity-victim-unenrolled",
        "A message with the certificate of another Mac ends the enrollment of the Mac that it names.",
        ("SEC-IDENTITY-03", "SEC-IDENTITY-11"),
    ),
)
