"""Requirements of the enrollment profile: what their checks do not judge, and what passes besides the lab's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conform_runs import authorities
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent import plists
from agent.conform.reading.enrollment import IDENTITY_STEP, SERVER_URL, TRUST_STEP
from agent.conform.requirements import requirements
from agent.conform.stage.handshakes import leads_to_system_anchor
from agent.conform.trace.bodies import Body, body_of
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, NoteRecord, Record, TLSRecord
from agent.conform.verdicts.requirement import Finding, Outcome
from agent.lab.enrollment.profiles import EnrollmentProfiles
from agent.pki.identity import Identity
from agent.pki.pem import certificate_pem
from agent.profiles.making import enrollment_profile, pkcs12_payload, scep_payload

IDS = [each.id for each in requirements() if each.id.startswith("MDM-ENROLL-")]
CHECKS = {each.id: each.check for each in requirements()}
AT = 1_900_000_000.0
UDIDS = ("A", "B")


def fetched(body: Body, *, number: int = 1, status: int = 200, udid: str = "A", at: float = AT) -> ExchangeRecord:
    return ExchangeRecord(
        number=number, probe="p", at=at, seconds=0.1, udid=udid, kind="enroll", status=status, response=body
    )


def profile(change: Callable[[dict[str, Any]], object] = lambda _content: None, *, scep: bool = False) -> Body:
    """An unsigned profile of the lab, with a change."""
    identity = scep_payload(authorities(), "http://scep.test", "x") if scep else pkcs12_payload(authorities())
    content = plists.load_dict(enrollment_profile(authorities(), "https://mdm.test", identity))
    change(content)
    return body_of(plists.dump_xml(content))


def mdm_of(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["PayloadContent"][-1]
    assert found["PayloadType"] == "com.apple.mdm"
    return found


def shaken(chain: tuple[str, ...]) -> TLSRecord:
    return TLSRecord(
        number=2,
        probe="p",
        at=AT,
        origin="mdm.test:443",
        says=SERVER_URL,
        lowest="TLSv1.2",
        highest="TLSv1.3",
        chain=chain,
    )


def finding(number: int, *records: Record) -> Finding:
    return CHECKS[f"MDM-ENROLL-{number:02}"](Evidence(list(records)))


@pytest.mark.parametrize(
    "records",
    [
        [],  # a profile that was given as a file
        [fetched(Body(), status=404)],
        [fetched(body_of(b"<html>Log in.</html>"))],
        [fetched(body_of(b'<?xml version="1.0"?><plist version="1.0"><array/></plist>'))],
        [fetched(profile(lambda content: content.update(PayloadType="Profile Service", PayloadContent={"URL": ""})))],
        [fetched(profile(lambda content: content.update(EncryptedPayloadContent=content.pop("PayloadContent"))))],
    ],
    ids=["no request", "404", "a page", "an array", "over the air", "encrypted"],
)
def test_without_a_profile_nothing_is_judged(records: list[Record]) -> None:
    assert [id_ for id_ in IDS if CHECKS[id_](Evidence(records)).outcome is not Outcome.NOT_TESTED] == []


def test_a_profile_of_odd_values_breaks_no_check() -> None:
    odd = [{}, [[]], 7, "text", {"PayloadType": "com.apple.mdm"}, {"PayloadType": ["com.apple.mdm"]}]
    for value in odd:
        payload = dict.fromkeys(
            ("PayloadUUID", "IdentityCertificateUUID", "AccessRights", "ServerCapabilities", "ServerURL", "CheckInURL"),
            value,
        )
        pins = {f"{url}PinningCertificateUUIDs": value for url in ("ServerURL", "CheckInURL")}
        content = {
            "PayloadContent": [{**payload, **pins, "PayloadType": "com.apple.mdm"}, value],
            "PayloadScope": value,
        }
        evidence = Evidence([fetched(body_of(plists.dump_xml(content)))])
        failures = [id_ for id_ in IDS if CHECKS[id_](evidence).outcome is Outcome.FAILED]
        assert {"MDM-ENROLL-06", "MDM-ENROLL-07", "MDM-ENROLL-11", "MDM-ENROLL-12"} <= set(failures)


def test_without_access_rights_the_right_of_lom_is_not_judged() -> None:
    without = fetched(profile(lambda content: mdm_of(content).pop("AccessRights")))
    assert finding(2, without).outcome is Outcome.NOT_TESTED
    assert finding(3, without).outcome is Outcome.PASSED


def test_an_integer_for_true_is_a_fault_of_its_type_alone() -> None:
    odd = fetched(profile(lambda content: mdm_of(content).update(CheckOutWhenRemoved=1)))
    assert finding(24, odd).outcome is Outcome.PASSED
    assert finding(27, odd).outcome is Outcome.FAILED


@pytest.mark.parametrize("rights", [0, -1, 8192, 2, 128, 4.0, "4", True])
def test_these_access_rights_are_invalid(rights: object) -> None:
    found = finding(3, fetched(profile(lambda content: mdm_of(content).update(AccessRights=rights))))
    assert found.outcome is Outcome.FAILED


def test_a_pkcs12_that_only_lom_agent_cannot_read_is_not_judged() -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["PayloadContent"][1]["PayloadContent"] = b"\x30\x03\x02\x01\x03"

    assert finding(19, fetched(profile(spoil))).outcome is Outcome.NOT_TESTED
    asked = fetched(profile(lambda content: content["PayloadContent"][1].pop("Password")))
    assert finding(19, asked).outcome is Outcome.NOT_TESTED  # the user is asked for it


def note(certificate: x509.Certificate, udid: str, number: int) -> NoteRecord:
    pem = certificate_pem(certificate).decode()
    return NoteRecord(number=number, probe="p", at=AT, step=IDENTITY_STEP, udid=udid, data={"certificate": pem})


def test_identities_of_scep_are_judged_by_the_certificates_that_the_macs_got() -> None:
    body = profile(scep=True)
    exchanges = [fetched(body, number=number, udid=udid) for number, udid in enumerate(UDIDS, start=1)]
    own, other = (authorities().mdm_identity().certificate for _ in UDIDS)
    assert finding(21, *exchanges).outcome is Outcome.NOT_TESTED
    assert finding(21, *exchanges, note(own, "A", 3), note(other, "B", 4)).outcome is Outcome.PASSED
    found = finding(21, *exchanges, note(own, "A", 3), note(own, "B", 4))
    assert (found.outcome, found.records) == (Outcome.FAILED, (3, 4))
    late = NoteRecord(
        number=3,
        probe="p",
        at=own.not_valid_after_utc.timestamp() + 1,
        step=IDENTITY_STEP,
        udid="A",
        data={"certificate": certificate_pem(own).decode()},
    )
    assert finding(28, *exchanges, late).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("pins", "outcome"),
    [
        (["server"], Outcome.PASSED),
        (["ca"], Outcome.PASSED),
        (["other"], Outcome.FAILED),
        (["other", "ca"], Outcome.PASSED),
    ],
)
def test_a_pinned_chain_contains_a_pin_or_leads_to_one(pins: list[str], outcome: Outcome) -> None:
    server = authorities().server_identity(["mdm.test"]).certificate
    pinned = {"server": server, "ca": authorities().anchor, "other": authorities().lom_device_anchor}

    def pin(content: dict[str, Any]) -> None:
        content["PayloadContent"][:0] = [
            {
                "PayloadType": "com.apple.security.root",
                "PayloadUUID": name,
                "PayloadContent": pinned[name].public_bytes(Encoding.DER),
            }
            for name in pins
        ]
        mdm_of(content)["ServerURLPinningCertificateUUIDs"] = pins

    assert finding(22, fetched(profile(pin)), shaken((certificate_pem(server).decode(),))).outcome is outcome


def test_the_trace_keeps_the_digest_of_a_signature_and_why_one_does_not_verify() -> None:
    plain = enrollment_profile(authorities(), "https://mdm.test", pkcs12_payload(authorities()))

    def sent(*defects: str) -> Body:
        return body_of(EnrollmentProfiles(authorities(), frozenset(defects)).finished(plain))

    assert (sent().digest, len(sent().signers)) == ("sha256", 1)
    assert sent("enroll-sha1").digest == "sha1"
    assert (sent("enroll-unsigned").digest, sent("enroll-unsigned").signers) == ("", ())
    broken = sent("enroll-signature-broken")
    assert (broken.form, broken.value) == ("bytes", None)
    assert broken.problem.startswith("its signature cannot be verified: ")


def test_a_wrong_password_is_known_from_other_faults_of_a_pkcs12() -> None:
    identity: Identity = authorities().mdm_identity()
    payload = pkcs12_payload(authorities(), identity)
    for change, problem in (
        ({}, ""),
        ({"Password": "another"}, "pkcs12_password"),
        ({"PayloadContent": b"\x30\x00"}, "identity"),
    ):
        kept = body_of(plists.dump_xml({**payload, **change})).dictionary["PayloadContent"]
        assert (kept.problem, bool(kept.pem)) == (problem, not problem)


def test_a_ca_that_the_system_trusts_need_not_be_in_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = authorities().server_identity(["mdm.test"]).certificate
    chain = (certificate_pem(server).decode(),)
    without = fetched(profile(lambda content: content["PayloadContent"].pop(0)))
    store = tmp_path / "anchors.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    for anchor, outcome in (
        (authorities().anchor, Outcome.PASSED),
        (authorities().lom_device_anchor, Outcome.FAILED),
    ):
        store.write_bytes(certificate_pem(anchor))
        trust = NoteRecord(number=3, probe="p", at=AT, step=TRUST_STEP, data={"system": leads_to_system_anchor(chain)})
        assert finding(29, without, shaken(chain), trust).outcome is outcome
        assert finding(29, fetched(profile()), shaken(chain), trust).outcome is Outcome.PASSED


def test_a_chain_that_cannot_be_read_leads_nowhere() -> None:
    assert not leads_to_system_anchor(())
    assert not leads_to_system_anchor(("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",))
