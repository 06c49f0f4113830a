"""Defects of what a server must survive: connections that break, and bodies that are unusual, too long or wrong."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect(
        "survive-before-unenrolls",
        "A Mac whose connection is reset before its first request is no longer enrolled.",
        ("MDM-SURVIVE-01",),
    ),
    Defect(
        "survive-half-unenrolls",
        "A Mac whose connection is reset within a request is no longer enrolled.",
        ("MDM-SURVIVE-02",),
    ),
    Defect("survive-command-lost", "SecurityInfo is sent in one session only.", ("MDM-SURVIVE-03",)),
    Defect("survive-long-500", "A body that is too long is answered with 500.", ("MDM-SURVIVE-04",)),
    Defect(
        "survive-content-type-strict",
        "The Content-Type of a message is compared with its case and its parameters.",
        ("MDM-SURVIVE-05",),
    ),
    Defect(
        "survive-xml-refused",
        "A check-in message that does not begin with the XML declaration is refused.",
        ("MDM-SURVIVE-06",),
    ),
    Defect("survive-bare-500", "A result with empty QueryResponses is answered with 500.", ("MDM-SURVIVE-07",)),
    Defect("survive-status-500", "A report with an unknown Status is answered with 500.", ("MDM-SURVIVE-08",)),
    Defect("survive-types-500", "A report whose Status is no string is answered with 500.", ("MDM-SURVIVE-09",)),
    Defect(
        "survive-http2-unenrolls",
        "A Mac whose request over HTTP/2 is reset in the middle is no longer enrolled.",
        ("MDM-SURVIVE-11",),
    ),
    Defect("survive-early-500", "A report before TokenUpdate is answered with 500.", ("MDM-SURVIVE-12",)),
    Defect("survive-empty-500", "A report with an empty body is answered with 500.", ("MDM-SURVIVE-10",)),
)
