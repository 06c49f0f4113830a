"""Parts of the LOM checks that no defect of the lab shows: chains with intermediate CAs, payloads that name nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.conform.reading.lom import LOM, leads_to
from agent.conform.requirements.lom_payload import ca_certificates, identity_types
from agent.conform.requirements.lom_setup import references_resolve
from agent.conform.trace.bodies import body_of
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Outcome
from agent.pki.pem import certificate_pem
from agent.plists import dump_xml


def issued(
    name: str, by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None, ca: bool | None = None
) -> tuple:
    """A certificate with its key; self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(key if by is None else by[1], hashes.SHA256()), key


def test_a_chain_leads_to_a_ca_directly_through_others_or_not_at_all() -> None:
    root, other = issued("root"), issued("root")
    middle = issued("middle", root)
    lower = issued("lower", middle)
    leaf = issued("leaf", lower)
    chain = (leaf[0], middle[0], lower[0])  # in any order
    assert leads_to(chain, [other[0], root[0]])
    assert leads_to(chain, [lower[0]])
    assert leads_to((root[0],), [root[0]])
    assert not leads_to((leaf[0], middle[0]), [root[0]])  # without the one between
    assert not leads_to(chain, [other[0]])  # of the same name, with another key
    assert not leads_to((root[0], root[0], root[0]), [other[0]])  # its own issuer: an end is found


def judged(check: Callable[[Evidence], Any], lom: dict[str, Any], *more: dict[str, Any]) -> Outcome:
    """The outcome over a LOM profile with these values of its LOM payload, and these payloads besides."""
    content = {"PayloadContent": [{"PayloadType": LOM, "PayloadUUID": "L", **lom}, *more]}
    command = {"RequestType": "InstallProfile", "Payload": dump_xml(content)}
    sent = body_of(dump_xml({"CommandUUID": "1", "Command": command}))
    record = ExchangeRecord(
        number=1,
        probe="p",
        at=0.0,
        seconds=0.1,
        udid="A",
        kind="report",
        status=200,
        answer_status="Idle",
        response=sent,
    )
    result: Outcome = check(Evidence([record])).outcome
    return result


@pytest.mark.parametrize("check", [references_resolve, identity_types, ca_certificates])
def test_a_lom_payload_that_names_nothing_is_no_pass(check: Callable[[Evidence], Any]) -> None:
    assert judged(check, {}) is Outcome.NOT_TESTED


def test_an_identity_that_the_profile_lacks_is_no_pass_for_its_type() -> None:
    lom = {"DeviceCertificateUUID": "I"}
    assert judged(identity_types, lom) is Outcome.NOT_TESTED
    assert judged(references_resolve, lom) is Outcome.FAILED
    assert judged(identity_types, lom, {"PayloadType": "com.apple.security.scep", "PayloadUUID": "I"}) is Outcome.PASSED


@pytest.mark.parametrize(
    ("ca", "by_itself", "expected"),
    [
        (True, True, Outcome.PASSED),
        (True, False, Outcome.PASSED),
        (None, True, Outcome.PASSED),  # an old root
        (None, False, Outcome.FAILED),
        (False, True, Outcome.FAILED),
        (False, False, Outcome.FAILED),
    ],
)
def test_a_payload_of_a_ca_contains_the_certificate_of_a_ca(
    ca: bool | None, by_itself: bool, expected: Outcome
) -> None:
    certificate, _ = issued("it", None if by_itself else issued("root"), ca)
    payload = {"PayloadType": "com.apple.security.pem", "PayloadUUID": "C"}
    named = {"DeviceCACertificateUUIDs": ["C"]}
    assert judged(ca_certificates, named, payload | {"PayloadContent": certificate_pem(certificate)}) is expected
    assert judged(ca_certificates, named, payload | {"PayloadContent": b"none"}) is Outcome.FAILED
    assert judged(ca_certificates, named) is Outcome.NOT_TESTED
