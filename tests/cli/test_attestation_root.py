"""``lom-agent attestation-root``: the trust anchor that a server needs."""

from __future__ import annotations

from pathlib import Path

from command import lom_agent_here
from cryptography import x509

from agent.pki.issuing.attestation import ROOT_NAME, AttestationAuthority


def test_the_root_is_the_same_each_time(tmp_path: Path) -> None:
    printed = lom_agent_here("attestation-root")
    written = lom_agent_here("attestation-root", "--out", str(tmp_path / "root.pem"))
    assert (printed.returncode, written.returncode) == (0, 0)
    pem = (tmp_path / "root.pem").read_bytes()
    assert printed.stdout == pem
    assert x509.load_pem_x509_certificate(pem) == AttestationAuthority(ROOT_NAME).root
