"""Defects of the lab's ACME server."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("acme-directory-short", "The directory has no newOrder.", ("MDM-ACME-01",), identity="acme"),
    Defect("acme-nonce-none", "The answer to newNonce has no Replay-Nonce.", ("MDM-ACME-02",), identity="acme"),
    Defect("acme-challenge-http", "An order has the challenge http-01 alone.", ("MDM-ACME-03",), identity="acme"),
    Defect("acme-chain-type", "The certificate has another media type.", ("MDM-ACME-04",), identity="acme"),
)
