"""Defects of check-ins."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("checkin-authenticate-202", "Authenticate is answered with 202.", ("MDM-CHECKIN-01",)),
    Defect("checkin-token-202", "TokenUpdate is answered with 202.", ("MDM-CHECKIN-02",)),
    Defect("checkin-out-refused", "CheckOut is answered with 500.", ("MDM-CHECKIN-03",)),
    Defect("checkin-out-ignored", "CheckOut does not end the enrollment.", ("MDM-CHECKIN-04",)),
    Defect("checkin-early-command", "Commands are sent before TokenUpdate.", ("MDM-CHECKIN-07",)),
    Defect(
        "checkin-early-push",
        "After Authenticate the Mac is pushed with the token of the enrollment before.",
        ("MDM-CHECKIN-08",),
    ),
    Defect(
        "checkin-bootstrap-refused",
        "SetBootstrapToken of a Mac that has a bootstrap token is answered with 400.",
        ("MDM-CHECKIN-09",),
    ),
    Defect("checkin-bootstrap-other", "GetBootstrapToken returns another token.", ("MDM-CHECKIN-10",)),
    Defect("checkin-bootstrap-404", "GetBootstrapToken without a token is answered with 404.", ("MDM-CHECKIN-11",)),
    Defect(
        "checkin-bootstrap-stays",
        "SetBootstrapToken without a token does not remove the token.",
        ("MDM-CHECKIN-12",),
    ),
    Defect("checkin-unknown-500", "An unknown MessageType is answered with 500.", ("MDM-CHECKIN-13",)),
    Defect("checkin-strict-keys", "Authenticate with unknown keys is refused.", ("MDM-CHECKIN-14",)),
    Defect("checkin-needs-optional", "Authenticate without its optional keys is refused.", ("MDM-CHECKIN-05",)),
    Defect(
        "checkin-token-once",
        "TokenUpdate with the token of the one before is refused.",
        ("MDM-CHECKIN-06", "MDM-SURVIVE-06"),
    ),
)
