"""Signatures of reports are made once for a second, or for as long as the option says."""

from __future__ import annotations

import pytest
from rsa_keys import rsa_key, rsa_keys
from twisted.internet.task import Clock

from agent.pki.cms import mdm_signature_signer
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, Authority
from agent.pki.mdm_signatures import Signatures

CA = Authority.create("CA")
RSA = CA.issue("rsa", CLIENT_USAGE, key=rsa_key())
EC = CA.issue("ec", CLIENT_USAGE)
IDLE = b"<dict><key>Status</key><string>Idle</string></dict>"
RESULT = b"<dict><key>CommandUUID</key><string>1</string></dict>"

CASES = [  # reuse, identity, body, seconds of each report, how many are signed
    (0.0, RSA, IDLE, (10.0, 10.5, 10.9), 1),
    (0.0, RSA, RESULT, (10.0, 10.5), 1),
    (0.0, RSA, IDLE, (10.0, 11.0, 11.5), 2),
    (0.0, EC, IDLE, (10.0, 10.5), 2),  # ECDSA is not deterministic
    (0.0, RSA, IDLE + bytes(2000), (10.0, 10.5), 2),  # too long to be kept
    (300.0, RSA, IDLE, (10.0, 11.0, 309.0), 1),
    (300.0, RSA, IDLE, (10.0, 310.0, 320.0), 2),
    (300.0, EC, IDLE, (10.0, 11.0), 1),
    (300.0, RSA, RESULT, (10.0, 11.0), 2),
    (300.0, RSA, IDLE, (10.0, 9.0), 2),  # the system's clock was set back
]


@pytest.mark.parametrize(("reuse", "identity", "body", "moments", "signed"), CASES)
def test_signature_is_used_again_for_as_long_as_it_may_be(
    reuse: float, identity: Identity, body: bytes, moments: tuple[float, ...], signed: int
) -> None:
    now = [0.0]
    signatures = Signatures(reuse, lambda: now[0])
    identity.free_objects()
    for moment in moments:
        now[0] = moment
        assert mdm_signature_signer(signatures.header(body, identity), body) == identity.certificate
    assert (signatures.made, signatures.made + signatures.reused) == (signed, len(moments))


def test_result_between_two_idle_reports_does_not_end_the_reuse() -> None:
    clock = Clock()
    signatures = Signatures(300.0, clock.seconds)
    for body in (IDLE, RESULT, IDLE):
        signatures.header(body, RSA)
        clock.advance(1.0)
    assert (signatures.made, signatures.reused) == (2, 1)


def test_each_identity_and_body_has_its_own_signature() -> None:
    signatures = Signatures(300.0, lambda: 10.0)
    other = CA.issue("other", CLIENT_USAGE, key=rsa_keys()[1])
    for identity in (RSA, other):
        for body in (IDLE, IDLE + b" "):
            assert mdm_signature_signer(signatures.header(body, identity), body) == identity.certificate


def test_identity_keeps_its_certificate_as_bytes_when_it_signs() -> None:
    issued = CA.issue("mac", CLIENT_USAGE, key=rsa_key())
    assert issued.certificate.extensions
    identity = Identity(issued.certificate, issued.key)
    for reuse in (0.0, 300.0):
        Signatures(reuse).header(IDLE, identity)
    assert identity._certificate is None  # with every part read it is five times as large
