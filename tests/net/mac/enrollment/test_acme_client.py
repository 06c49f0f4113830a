"""An identity by ACME, over TLS, with the lab's server; attestations are verified by code of other projects."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import cbor2
import pytest
from conftest import RunInReactor
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from stack import Stack, stack

from agent.errors import PeerError
from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.lab.enrollment.acme import ACMEAnswer
from agent.measure.exchanges import ExchangeLog, HTTPExchange
from agent.net.mac.client import MDMClient
from agent.pki.issuing.attestation import attestation_authority
from agent.profiles.errors import ProfileTimedOut

OPERATIONS = ["directory", "newNonce", "newAccount", "newOrder", "authorization", "challenge", "authorization",
              "order", "finalize", "certificate"]  # fmt: skip
# Apple's documents, commands/information.device.yaml, DevicePropertiesAttestation
OIDS = {
    "serial": "1.2.840.113635.100.8.9.1",
    "udid": "1.2.840.113635.100.8.9.2",
    "model": "1.2.840.113635.100.8.9.4",
    "os": "1.2.840.113635.100.8.10.1",
    "sepos": "1.2.840.113635.100.8.10.2",
    "llb": "1.2.840.113635.100.8.10.3",
    "freshness": "1.2.840.113635.100.8.11.1",
    "sip": "1.2.840.113635.100.8.13.1",
    "boot": "1.2.840.113635.100.8.13.2",
    "kext": "1.2.840.113635.100.8.13.3",
}


def openssl_verifies(chain: list[bytes], folder: Path) -> str:
    """What ``openssl verify`` says about a chain in DER, with the test root; empty where it accepts it."""
    names = ("leaf", "intermediate")
    for name, der in zip(names, chain, strict=True):
        (folder / name).write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    (folder / "root").write_bytes(attestation_authority().root.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-CAfile", "root", "-untrusted", "intermediate", "leaf"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr


def attested(leaf: bytes) -> dict[str, bytes]:
    """The values of Apple's extensions in a certificate."""
    found = x509.load_der_x509_certificate(leaf).extensions
    return {name: found.get_extension_for_oid(x509.ObjectIdentifier(oid)).value.public_bytes()
            for name, oid in OIDS.items()}  # fmt: skip


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def payload_of(exchange: HTTPExchange) -> Any:
    return json.loads(unpadded(json.loads(exchange.request)["payload"]))


def described(client: MDMClient) -> dict[str, bytes]:
    """What an attestation says about a Mac, without the freshness code."""
    mac = client.device.mac
    release = mac.os_version.encode()
    return {"serial": mac.serial_number.encode(), "os": release, "sepos": release, "sip": b"0",
            "boot": b"Full Security", "kext": b"0"}  # fmt: skip


def acme_exchanges(log: ExchangeLog) -> list[HTTPExchange]:
    return [each for each in log if each.kind == "acme"]


def test_a_mac_enrolls_with_an_attested_key(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    log = ExchangeLog()

    async def scenario() -> None:
        async with stack(acme=True, os="15.5", log=log) as running:
            client = running.fleet[0]
            enrollment = client.device.enrollment
            assert enrollment is not None
            key = enrollment.identity.key
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            assert isinstance(key.curve, ec.SECP384R1)
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"

            exchanges = acme_exchanges(log)
            assert [each.message_type for each in exchanges] == OPERATIONS
            token = json.loads(exchanges[4].response)["challenges"][0]["token"]
            statement = cbor2.loads(unpadded(payload_of(exchanges[5])["attObj"]))
            assert set(statement) == {"fmt", "attStmt"}
            assert statement["fmt"] == "apple"
            chain = statement["attStmt"]["x5c"]
            assert not openssl_verifies(chain, tmp_path)
            values = attested(chain[0])
            assert values["freshness"] == hashlib.sha256(token.encode()).digest()
            assert described(client).items() <= values.items()
            assert x509.load_der_x509_certificate(chain[0]).public_key() == key.public_key()
            csr = x509.load_der_x509_csr(unpadded(payload_of(exchanges[8])["csr"]))
            assert csr.is_signature_valid
            assert csr.public_key() == key.public_key()
            identifier = payload_of(exchanges[3])["identifiers"][0]
            assert identifier["type"] == "permanent-identifier"
            names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            other = names.get_values_for_type(x509.OtherName)[0]
            assert other.type_id.dotted_string == "1.3.6.1.5.5.7.8.3"
            assert other.value.endswith(identifier["value"].encode())

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nonce", "freshness code.*lom-agent attestation-root"),
        ("serial", "CommonName"),
        ("stale", "certificate has expired"),
        ("root", "unable to get issuer certificate|unable to get local issuer|self-signed"),
    ],
)
def test_a_rule_falsifies_the_attestation_of_a_key(run_in_reactor: RunInReactor, what: str, said: str) -> None:
    faults, log = Faults(), ExchangeLog()
    faults.add(Rule(id="false", on="attestation", type="acme", do="falsify", what=what, times=1), 0.0)  # type: ignore[arg-type]

    async def scenario() -> None:
        async with stack(acme=True, os="15.5", faults=faults, log=log, enrolled=False) as running:
            client = running.fleet[0]
            with pytest.raises(PeerError, match=said):
                await running.enroll(client)
            challenge = next(each for each in log if each.message_type == "challenge")
            assert tuple(challenge.rules) == ("false",)
            await running.enroll(client)  # the rule is used up
            assert running.udid(client) in running.lab.macs

    run_in_reactor(scenario())


def test_a_mac_that_cannot_attest_sends_no_attestation(run_in_reactor: RunInReactor) -> None:
    log = ExchangeLog()

    async def scenario() -> None:
        async with stack(acme=True, os="15.5", model="MacPro7,1", log=log):
            challenge = next(each for each in log if each.message_type == "challenge")
            assert cbor2.loads(unpadded(payload_of(challenge)["attObj"])) == {"fmt": "none", "attStmt": {}}

    run_in_reactor(scenario())


def test_a_mac_before_macos_14_refuses_a_hardware_bound_key(run_in_reactor: RunInReactor) -> None:
    log = ExchangeLog()

    async def scenario() -> None:
        async with stack(acme=True, os="13.6", log=log, enrolled=False) as running:
            with pytest.raises(PeerError, match="expected false before macOS 14"):
                await running.enroll(running.fleet[0])
            assert not acme_exchanges(log)

    run_in_reactor(scenario())


def test_a_server_that_never_decides_is_waited_for_until_the_limit(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(acme=True, os="15.5", enrolled=False) as running:
            service = running.server._acme
            assert service is not None
            answer = service.answer

            def undecided(method: str, path: str, body: bytes, content_type: str) -> ACMEAnswer:
                found = answer(method, path, body, content_type)
                if not path.startswith(("/order/", "/authorization/")):
                    return found
                content = json.dumps({**json.loads(found.body), "status": "pending"}).encode()
                return ACMEAnswer(found.status, found.content_type, content, found.headers)

            service.answer = undecided  # type: ignore[method-assign]
            with pytest.raises(ProfileTimedOut, match="has not decided"):
                await running.fleet[0].enroll_at(running.server.enrollment_url, polling_limit=0.05)

    run_in_reactor(scenario())


async def attestation(running: Stack, client: MDMClient, **keys: Any) -> list[bytes]:
    result = await running.command(
        client, "DeviceInformation", Queries=["DevicePropertiesAttestation", "SerialNumber"], **keys
    )
    answers = result["QueryResponses"]
    assert answers["SerialNumber"] == client.device.mac.serial_number
    chain: list[bytes] = answers["DevicePropertiesAttestation"]
    return chain


def test_device_information_has_an_attestation_which_a_rule_falsifies(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    faults, log = Faults(), ExchangeLog()

    async def scenario() -> None:
        async with stack(os="15.5", faults=faults, log=log) as running:
            client = running.fleet[0]
            nonce = bytes(range(32))
            chain = await attestation(running, client, DeviceAttestationNonce=nonce)
            assert not openssl_verifies(chain, tmp_path)
            values = attested(chain[0])
            assert values["freshness"] == nonce
            assert described(client).items() <= values.items()
            provisioning = await running.command(client, "DeviceInformation", Queries=["ProvisioningUDID"])
            assert values["udid"].decode() == provisioning["QueryResponses"]["ProvisioningUDID"]
            for what in ("nonce", "serial", "stale", "root"):
                faults.clear()
                faults.add(Rule(id=what, on="attestation", type="DeviceInformation", do="falsify", what=what), 0.0)  # type: ignore[arg-type]
                other = await attestation(running, client, DeviceAttestationNonce=nonce)
                said = openssl_verifies(other, tmp_path)
                assert bool(said) == (what in ("stale", "root")), said
                changed = {name for name, value in attested(other[0]).items() if values[name] != value}
                assert changed == {"nonce": {"freshness"}, "serial": {"serial"}}.get(what, set())
                await running.until(lambda name=what: any(name in each.rules for each in log), "the exchange")  # type: ignore[misc]
            faults.clear()
            assert await attestation(running, client) == chain

    run_in_reactor(scenario())
