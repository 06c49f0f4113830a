"""Defects of sessions: what the lab answers to reports."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect(
        "session-never-empty",
        "The answer to a report is an empty dictionary where it should be empty.",
        ("MDM-SESSION-01",),
    ),
    Defect("session-content-type", "Commands have the Content-Type application/octet-stream.", ("MDM-SESSION-02",)),
    Defect("session-command-lost", "ProfileList is accepted and never sent.", ("MDM-SESSION-03",)),
    Defect(
        "session-command-repeated",
        "A command other than LOMDeviceRequest is sent once more after its result was accepted.",
        ("MDM-SESSION-04",),
    ),
    Defect(
        "session-not-now-at-once",
        "After NotNow the command is sent again in the same session.",
        ("MDM-SESSION-05",),
    ),
    Defect("session-not-now-dropped", "NotNow ends a command.", ("MDM-SESSION-06",)),
    Defect("session-error-refused", "A result with the Status Error is answered with 500.", ("MDM-SESSION-07",)),
    Defect(
        "session-format-error-refused",
        "A result with the Status CommandFormatError is answered with 500.",
        ("MDM-SESSION-08",),
    ),
    Defect(
        "session-second-result-refused",
        "A result that is delivered again is answered with 400.",
        ("MDM-SESSION-09",),
    ),
    Defect(
        "session-unknown-result-refused", "A result of an unknown command is answered with 500.", ("MDM-SESSION-10",)
    ),
    Defect("session-malformed-fails", "A body that is no property list is answered with 500.", ("MDM-SESSION-11",)),
)
