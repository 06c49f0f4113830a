"""Defects of the lab's TLS."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("tls-cbc", "TLS 1.2 has cipher suites with AES-CBC only.", ("OS27-TLS-04",)),
    Defect("tls-no-extended-master-secret", "TLS 1.2 has no extended master secret.", ("OS27-TLS-03",)),
    Defect("tls-old-versions", "TLS 1.0 and 1.1 are accepted.", ("OS27-TLS-02",)),
    Defect("tls-weak-key", "The server's key is RSA of 2040 bits.", ("OS27-TLS-05",)),
)
