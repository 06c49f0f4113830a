"""Defects of renewals."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("renew-topic-changed", "A renewal has another Topic.", ("MDM-RENEW-01",)),
    Defect("renew-refused", "The new identity of a renewal is not accepted.", ("MDM-RENEW-02",)),
    Defect("renew-more-rights", "A renewal adds an access right.", ("MDM-RENEW-03",)),
    Defect("renew-per-user-removed", "A renewal lacks com.apple.mdm.per-user-connections.", ("MDM-RENEW-04",)),
    Defect("renew-identifier-changed", "A renewal has another PayloadIdentifier.", ("MDM-RENEW-05",)),
)
