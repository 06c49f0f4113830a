"""Defects of declarative management: what the lab answers to DeclarativeManagement."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("ddm-tokens-keys", "The answer to tokens has its keys outside SyncTokens.", ("MDM-DDM-01", "MDM-DDM-13")),
    Defect("ddm-timestamp", "Timestamp has no time.", ("MDM-DDM-02",)),
    Defect("ddm-items-keys", "The declaration items lack Management.", ("MDM-DDM-03",)),
    Defect("ddm-token-differs", "The declaration items have another DeclarationsToken.", ("MDM-DDM-04",)),
    Defect("ddm-item-token", "A declaration item has no ServerToken.", ("MDM-DDM-05",)),
    Defect("ddm-declaration-keys", "A declaration has no Payload.", ("MDM-DDM-06",)),
    Defect("ddm-declaration-token", "A declaration has another ServerToken than its item.", ("MDM-DDM-07",)),
    Defect("ddm-missing-200", "A declaration that does not exist is answered with 200.", ("MDM-DDM-08",)),
    Defect("ddm-status-body", "A status report is answered with an object.", ("MDM-DDM-09",)),
    Defect("ddm-endpoint-500", "An unknown endpoint is answered with 500.", ("MDM-DDM-10",)),
    Defect("ddm-activation-reference", "An activation names a configuration that is not there.", ("MDM-DDM-11",)),
    Defect("ddm-content-type", "JSON has the Content-Type application/xml.", ("MDM-DDM-12",)),
    Defect("ddm-command-data", "Data of DeclarativeManagement is the declaration items.", ("MDM-DDM-13",)),
)
