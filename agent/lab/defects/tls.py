"""Defects of the lab's TLS."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("tls-no-extended-master-secret", "TLS 1.2 has no extended master secret.", ("OS27-TLS-03",)),
    Defect("tls-old-versions", "TLS 1.0 and 1.1 are accepted.", ("OS27-TLS-02",)),
)
